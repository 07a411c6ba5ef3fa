{{- /*
One workload with all that goes with it. Fields of the dictionary:
  root, name, values (of values.yaml), image, args, port, protocol (grpc|http), env, files (settings that are
  secrets), volumes, mounts, api (whether it calls the API server), callers, calls, anywhere (calls endpoints
  outside), signal (query of KEDA), grace (seconds), strategy, service (whether it is called)
*/}}
{{- define "agentteams.workload" -}}
{{- $autoscaling := .values.autoscaling | default dict }}
{{- $scaled := ne ($autoscaling.type | default "None") "None" }}
{{- if and $scaled (gt (int $autoscaling.minReplicas) (int $autoscaling.maxReplicas)) }}
{{- fail (printf "%s.autoscaling.minReplicas (%d) is more than maxReplicas (%d)" .key (int $autoscaling.minReplicas) (int $autoscaling.maxReplicas)) }}
{{- end }}
{{- if and (eq ($autoscaling.type | default "None") "KEDA") (not .root.Values.metrics.prometheusUrl) }}
{{- fail (printf "metrics.prometheusUrl: %s.autoscaling.type KEDA asks a Prometheus; say where it is" .key) }}
{{- end }}
{{- $env := concat (include "agentteams.env" . | fromYamlArray) (list
  (dict "name" "AGENTTEAMS_PORT" "value" (toString .port))
  (dict "name" "AGENTTEAMS_METRICS_PORT" "value" "9090")
  (dict "name" "AGENTTEAMS_DRAIN_DELAY_S" "value" "5")) (.env | default list) }}
{{- $ours := list }}
{{- range $env }}{{ $ours = append $ours .name }}{{ end }}
{{- range .files }}{{ $ours = append $ours (printf "AGENTTEAMS_%s" (upper .setting)) }}{{ end }}
{{- range $name, $value := .values.env }}
{{- if has $name $ours }}
{{- fail (printf "%s.env: %s is set by the chart; %s" $.key $name (eq $name "AGENTTEAMS_IDENTITY_KEY_FILE" | ternary "use identity.existingSecret" "the value for it is in the chart's README")) }}
{{- end }}
{{- if kindIs "map" $value }}
{{- fail (printf "%s.env.%s: is a map; give a string (secrets are named by values of their own)" $.key $name) }}
{{- end }}
{{- /* Helm reads 2000000 as a float, and would write 2e+06. */}}
{{- if and (kindIs "float64" $value) (eq (float64 (int64 $value)) $value) }}{{ $value = int64 $value }}{{ end }}
{{- $env = append $env (dict "name" $name "value" (toString $value)) }}
{{- end }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: agentteams-{{ .name }}
  labels: {{ include "agentteams.labels" . | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: agentteams-{{ .name }}
  labels: {{ include "agentteams.labels" . | nindent 4 }}
spec:
  {{- if not $scaled }}
  replicas: {{ .values.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  selector:
    matchLabels: {{ include "agentteams.selector" . | nindent 6 }}
  strategy: {{ .strategy | default (dict "type" "RollingUpdate" "rollingUpdate" (dict "maxUnavailable" 0 "maxSurge" 1)) | toYaml | nindent 4 }}
  template:
    metadata:
      labels: {{ include "agentteams.labels" . | nindent 8 }}
      {{- with .root.Values.podAnnotations }}
      annotations: {{ toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: agentteams-{{ .name }}
      automountServiceAccountToken: {{ .api | default false }}
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ .grace | default 40 }}
      securityContext: {{ include "agentteams.podSecurity" . | nindent 8 }}
      topologySpreadConstraints:
      {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
      - maxSkew: 1
        topologyKey: {{ . }}
        whenUnsatisfiable: ScheduleAnyway
        labelSelector:
          matchLabels: {{ include "agentteams.selector" $ | nindent 12 }}
      {{- end }}
      {{- include "agentteams.scheduling" . | nindent 6 }}
      containers:
      - name: {{ .name }}
        image: {{ include "agentteams.image" (dict "root" .root "name" .image) }}
        imagePullPolicy: {{ .root.Values.image.pullPolicy }}
        {{- with .args }}
        args: {{ toYaml . | nindent 8 }}
        {{- end }}
        ports:
        - {name: {{ .protocol }}, containerPort: {{ .port }}}
        - {name: metrics, containerPort: 9090}
        env:
        {{- toYaml $env | nindent 8 }}
        {{- if eq .protocol "grpc" }}
        startupProbe: {grpc: {port: {{ .port }}}, periodSeconds: 2, failureThreshold: 60, timeoutSeconds: 2}
        readinessProbe: {grpc: {port: {{ .port }}}, periodSeconds: 5, timeoutSeconds: 2}
        livenessProbe: {tcpSocket: {port: {{ .port }}}, periodSeconds: 10, failureThreshold: 6}
        {{- else }}
        startupProbe: {httpGet: {path: /healthz, port: {{ .port }}}, periodSeconds: 2, failureThreshold: 60}
        readinessProbe: {httpGet: {path: /readyz, port: {{ .port }}}, periodSeconds: 5, timeoutSeconds: 2}
        livenessProbe: {httpGet: {path: /healthz, port: {{ .port }}}, periodSeconds: 10, failureThreshold: 6}
        {{- end }}
        resources: {{ toYaml .values.resources | nindent 10 }}
        securityContext: {{ include "agentteams.containerSecurity" . | nindent 10 }}
        volumeMounts:
        {{- include "agentteams.settingsMounts" . | nindent 8 }}
        {{- with .mounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      volumes:
      {{- include "agentteams.settingsVolume" . | nindent 6 }}
      {{- with .volumes }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
{{- if .service }}
---
apiVersion: v1
kind: Service
metadata:
  name: agentteams-{{ .name }}
  labels: {{ include "agentteams.labels" . | nindent 4 }}
spec:
  {{- if eq .protocol "grpc" }}
  # gRPC keeps its connections: clients spread calls over the pods that the name resolves to.
  clusterIP: None
  {{- end }}
  selector: {{ include "agentteams.selector" . | nindent 4 }}
  ports:
  - {name: {{ .protocol }}, port: {{ .port }}, targetPort: {{ .port }}, appProtocol: {{ .protocol }}}
{{- end }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: agentteams-{{ .name }}
  labels: {{ include "agentteams.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{ include "agentteams.selector" . | nindent 6 }}
{{- if eq ($autoscaling.type | default "None") "HPA" }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: agentteams-{{ .name }}
  labels: {{ include "agentteams.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: agentteams-{{ .name }}}
  minReplicas: {{ $autoscaling.minReplicas }}
  maxReplicas: {{ $autoscaling.maxReplicas }}
  metrics:
  - type: Resource
    resource: {name: cpu, target: {type: Utilization, averageUtilization: {{ $autoscaling.target }}}}
{{- else if eq ($autoscaling.type | default "None") "KEDA" }}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: agentteams-{{ .name }}
  labels: {{ include "agentteams.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {name: agentteams-{{ .name }}}
  minReplicaCount: {{ $autoscaling.minReplicas }}
  maxReplicaCount: {{ $autoscaling.maxReplicas }}
  triggers:
  - type: prometheus
    metricType: {{ .signalType | default "AverageValue" }}
    metadata:
      serverAddress: {{ .root.Values.metrics.prometheusUrl | quote }}
      query: {{ .signal | replace "NAMESPACE" .root.Release.Namespace | quote }}
      threshold: {{ $autoscaling.target | quote }}
{{- end }}
{{- if .root.Values.networkPolicies.enabled }}
---
{{ include "agentteams.networkPolicy" . }}
{{- end }}
{{- end }}

{{- /* Who may call it, and whom it may call. */}}
{{- define "agentteams.networkPolicy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: agentteams-{{ .name }}
  labels: {{ include "agentteams.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels: {{ include "agentteams.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
  {{- range .callers }}
  - from: [{{ include "agentteams.peer" (dict "root" $.root "peer" .) }}]
    ports: [{port: {{ $.port }}}]
  {{- end }}
  {{- with .from }}
  - {{ if .peers }}from: {{ toYaml .peers | nindent 4 }}
    {{ end }}ports: [{port: {{ $.port }}}]
  {{- end }}
  {{- /* A rule without peers would let everybody through. */}}
  {{- with .root.Values.networkPolicies.metricsFrom }}
  - from: {{ toYaml . | nindent 4 }}
    ports: [{port: {{ $.metricsPort | default 9090 }}}]
  {{- end }}
  egress:
  {{- with .root.Values.networkPolicies.dns }}
  - to: {{ toYaml . | nindent 4 }}
    ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
  {{- end }}
  {{- range .calls }}
  - to: [{{ include "agentteams.peer" (dict "root" $.root "peer" .peer) }}]
    ports: [{port: {{ .port }}}]
  {{- end }}
  {{- if .api }}
  # The API server has no pods to select.
  - ports: [{port: 443}, {port: 6443}]
  {{- end }}
  {{- if and .anywhere .root.Values.networkPolicies.modelEndpoints }}
  - to:
    {{- range .root.Values.networkPolicies.modelEndpoints }}
    - ipBlock: {{ toYaml . | nindent 8 }}
    {{- end }}
  {{- end }}
{{- end }}

{{- /* One of our workloads by name, the orchestrators of any namespace, or a selector that is given. */}}
{{- define "agentteams.peer" -}}
{{- if kindIs "map" .peer -}}
{{ toJson .peer }}
{{- else if eq .peer "orchestrators" -}}
{namespaceSelector: {}, podSelector: {matchLabels: {app.kubernetes.io/name: agentteams-orchestrator}}}
{{- else -}}
{podSelector: {matchLabels: {{ include "agentteams.selector" (dict "root" .root "name" .peer) | fromYaml | toJson }}}}
{{- end }}
{{- end }}
