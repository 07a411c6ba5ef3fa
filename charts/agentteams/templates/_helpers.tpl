{{- define "agentteams.labels" -}}
app.kubernetes.io/part-of: agentteams
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "agentteams.selector" -}}
app.kubernetes.io/part-of: agentteams
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/name: {{ .name }}
{{- end }}

{{- define "agentteams.image" -}}
{{ .root.Values.image.prefix }}{{ .name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "agentteams.identitySecret" -}}
{{ .Values.identity.existingSecret | default "agentteams-identity-key" }}
{{- end }}

{{- /* Secret and key with the URL of a database: "session" or "catalogue". */}}
{{- define "agentteams.databaseSecret" -}}
{{- $database := .root.Values.database }}
{{- if eq $database.type "External" -}}
{{ required (printf "database.external.%sSecret: database.type External needs the name of a Secret with the key uri" .which) (get $database.external (printf "%sSecret" .which)) }}
{{- else if eq $database.type "CloudNativePG" -}}
agentteams-{{ .which }}-app
{{- else -}}
agentteams-{{ .which }}-database
{{- end }}
{{- end }}

{{- define "agentteams.milvusUri" -}}
{{- if eq .Values.milvus.type "External" -}}
{{ required "milvus.uri: milvus.type External needs the address, http(s)://host:port" .Values.milvus.uri }}
{{- else if eq .Values.milvus.type "Operator" -}}
http://agentteams-milvus:19530
{{- else -}}
http://milvus-lite:19530
{{- end }}
{{- end }}

{{- /* A pod that keeps the restricted pod security standard. */}}
{{- define "agentteams.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "agentteams.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "agentteams.scheduling" -}}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Environment that every one of our processes has. */}}
{{- define "agentteams.env" -}}
- {name: AGENTTEAMS_LOG_LEVEL, value: {{ .root.Values.logLevel | quote }}}
- {name: AGENTTEAMS_IDENTITY_KEY_FILE, value: /run/agentteams/identity/key}
- {name: AGENTTEAMS_SETTINGS_DIR, value: /run/agentteams/settings}
{{- range $name, $value := include "agentteams.traces" .root | fromJson }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- /* Where traces go and which are kept, as a JSON object of variables. */}}
{{- define "agentteams.traces" -}}
{{- $traces := dict }}
{{- with .Values.otlpEndpoint }}{{ $_ := set $traces "AGENTTEAMS_OTLP_ENDPOINT" . }}
{{- $_ := set $traces "AGENTTEAMS_TRACE_RATIO" (divf $.Values.traces.percent 100 | toString) }}
{{- $_ := set $traces "AGENTTEAMS_TRACE_SLOW_S" (toString $.Values.traces.slowSeconds) }}
{{- $_ := set $traces "AGENTTEAMS_TRACE_CONTENT" (toString $.Values.traces.content) }}
{{- end }}
{{- toJson $traces }}
{{- end }}

{{- /* Settings that are secrets, as files: [{secret, key, setting}]. */}}
{{- define "agentteams.settingsVolume" -}}
- name: settings
  projected:
    defaultMode: 0440
    sources: {{ if not .files }}[]{{ end }}
    {{- range .files }}
    - secret:
        name: {{ .secret }}
        items: [{key: {{ .key }}, path: agentteams_{{ .setting }}}]
    {{- end }}
- name: identity
  secret:
    secretName: {{ include "agentteams.identitySecret" .root }}
    defaultMode: 0440
- {name: tmp, emptyDir: {}}
{{- end }}

{{- define "agentteams.settingsMounts" -}}
- {name: settings, mountPath: /run/agentteams/settings, readOnly: true}
- {name: identity, mountPath: /run/agentteams/identity, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- end }}
