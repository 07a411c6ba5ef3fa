"""The gRPC face of golden sets of teams: checks and translates, calls the store, translates back."""

from collections.abc import Callable
from datetime import datetime
from functools import partial

import grpc
from agentteams.session.v1 import golden_sets_pb2 as pb
from agentteams.session.v1 import golden_sets_pb2_grpc, scores_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from servicekit.context import current_caller
from servicekit.errors import Conflict, InvalidArgument, NotFound, PermissionDenied
from servicekit.golden import MAX_QUESTIONS, check_questions, fingerprint
from servicekit.paging import PageTokens, page_size
from servicekit.server import Service
from session import checks, convert
from session.core.golden_sets import GoldenSet, GoldenSetStore, NewFailure, NewGoldenSet, NewResult

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["GoldenSetService"].full_name

MAX_BYTES = 2 * 1024 * 1024
_EVALUATION = "evaluation"
_MAX_NAME, _MAX_MESSAGE = 520, 1_000


class GoldenSetServicer(golden_sets_pb2_grpc.GoldenSetServiceServicer):
    """GoldenSetService over a store."""

    def __init__(self, *, store: GoldenSetStore, tokens: PageTokens, new_id: Callable[[], str]) -> None:
        self._store = store
        self._tokens = tokens
        self._new_id = new_id

    async def SetTeamGoldenSet(
        self, request: pb.SetTeamGoldenSetRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.TeamGoldenSet:
        """Stores a golden set, or takes it away."""
        tenant, team = _tenant(), checks.resource_id("team", request.team, "teams")
        checks.text("golden_set", request.golden_set, maximum=_MAX_NAME)
        if not request.questions:
            await self._store.drop_golden_set(tenant, team)
            return pb.TeamGoldenSet(tenant=f"tenants/{tenant}", team=request.team)
        check_questions(request.questions)
        payload = pb.SetTeamGoldenSetRequest(questions=request.questions).SerializeToString()
        if len(payload) > MAX_BYTES:
            raise InvalidArgument.field(
                "questions", f"have {len(payload)} bytes, at most {MAX_BYTES} are allowed"
            )
        new = NewGoldenSet(
            team=team,
            name=request.golden_set,
            sha256=fingerprint((one.id, one.question, one.sources, one.facts) for one in request.questions),
            questions=len(request.questions),
            payload=payload,
        )
        return golden_set_to_pb(await self._store.set_golden_set(tenant, new))

    async def GetTeamGoldenSet(
        self, request: pb.GetTeamGoldenSetRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.TeamGoldenSet:
        """Returns how it gets on."""
        team = checks.resource_id("team", request.team, "teams")
        found = await self._store.golden_set(_tenant(), team)
        if found is None:
            raise NotFound(
                f"teams/{team} has no golden set that it is asked by schedule",
                reason="GOLDEN_SET_NOT_FOUND",
                metadata={"team": f"teams/{team}"},
            )
        return golden_set_to_pb(found)

    async def ListTeamGoldenSets(
        self, request: pb.ListTeamGoldenSetsRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.ListTeamGoldenSetsResponse:
        """Lists those of the caller's tenant, or of all."""
        _evaluation_only("ListTeamGoldenSets")
        tenant = current_caller().tenant
        limit = page_size(request.page_size, default=100, maximum=200)
        bound = ("golden sets", tenant)
        after = ("", "")
        if request.page_token:
            owner, _, name = self._tokens.decode(bound, request.page_token).partition("/")
            after = (owner, name)
        found = await self._store.golden_sets(tenant, after=after, limit=limit + 1)
        response = pb.ListTeamGoldenSetsResponse(golden_sets=map(golden_set_to_pb, found[:limit]))
        if len(found) > limit:
            last = found[limit - 1]
            response.next_page_token = self._tokens.encode(bound, f"{last.tenant}/{last.team}")
        return response

    async def ClaimTeamGoldenSet(
        self, request: pb.ClaimTeamGoldenSetRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.ClaimTeamGoldenSetResponse:
        """Begins an evaluation."""
        tenant, team = _evaluating("ClaimTeamGoldenSet", request.team)
        checks.text("golden_set_sha256", request.golden_set_sha256, required=True)
        token = self._new_id()
        payload = await self._store.claim_golden_set(
            tenant,
            team,
            sha256=request.golden_set_sha256,
            turn=checks.number("turn", request.turn),
            token=token,
            lease=checks.lease("golden", request.lease_duration).duration,
        )
        if payload is None:
            raise _taken(team)
        questions = pb.SetTeamGoldenSetRequest.FromString(payload).questions
        return pb.ClaimTeamGoldenSetResponse(token=token, questions=questions)

    async def RenewTeamGoldenSet(
        self, request: pb.RenewTeamGoldenSetRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.RenewTeamGoldenSetResponse:
        """Goes on with it."""
        tenant, team = _evaluating("RenewTeamGoldenSet", request.team)
        held = await self._store.renew_golden_set(
            tenant,
            team,
            token=checks.text("token", request.token, required=True),
            lease=checks.lease("golden", request.lease_duration).duration,
            done=checks.number("done", request.done, maximum=MAX_QUESTIONS),
        )
        if not held:
            raise _taken(team)
        return pb.RenewTeamGoldenSetResponse()

    async def EndTeamGoldenSet(
        self, request: pb.EndTeamGoldenSetRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.TeamGoldenSet:
        """Ends it."""
        tenant, team = _evaluating("EndTeamGoldenSet", request.team)
        token = checks.text("token", request.token, required=True)
        end: NewResult | NewFailure
        if request.WhichOneof("end") == "failure":
            end = _failure(request.failure)
        elif request.WhichOneof("end") == "evaluation":
            before = await self._store.golden_set(tenant, team)
            newest = scores_pb2.TeamEvaluation.FromString(before.newest) if before is not None else None
            end = _result(request.evaluation, team, newest)
        else:
            raise InvalidArgument.field("end", "must be evaluation or failure")
        stored = await self._store.end_golden_set(tenant, team, token=token, end=end)
        if stored is None:
            raise _taken(team)
        return golden_set_to_pb(stored)


def golden_set_service(servicer: GoldenSetServicer) -> Service:
    """For servicekit's server."""
    return Service(
        name=SERVICE_NAME,
        register=partial(golden_sets_pb2_grpc.add_GoldenSetServiceServicer_to_server, servicer),
    )


def golden_set_to_pb(stored: GoldenSet) -> pb.TeamGoldenSet:
    """The resource."""
    made = pb.TeamGoldenSet(
        tenant=f"tenants/{stored.tenant}",
        team=f"teams/{stored.team}",
        golden_set=stored.name,
        golden_set_sha256=stored.sha256,
        questions=stored.questions,
        set_time=convert.timestamp(stored.set_time),
        turn=stored.turn,
        running=stored.lease_expire_time is not None,
        done=stored.done,
        failures=stored.failures,
        failure_time=_time(stored.failure_time),
        retry_time=_time(stored.retry_time),
        failure=stored.failure,
    )
    for name, payload, time in (
        ("newest", stored.newest, stored.newest_time),
        ("former", stored.former, stored.former_time),
    ):
        if payload and time is not None:
            one = getattr(made, name)
            one.MergeFromString(payload)
            one.create_time.CopyFrom(convert.timestamp(time))
    return made


def _tenant() -> str:
    tenant = current_caller().tenant
    if not tenant:
        raise PermissionDenied("this call needs a tenant", reason="PERMISSION_DENIED")
    return tenant


def _evaluation_only(method: str) -> None:
    if current_caller().service != _EVALUATION:
        raise PermissionDenied(f"{method} is for evaluation services only", reason="PERMISSION_DENIED")


def _evaluating(method: str, team: str) -> tuple[str, str]:
    _evaluation_only(method)
    return _tenant(), checks.resource_id("team", team, "teams")


def _taken(team: str) -> Conflict:
    return Conflict(
        f"another process evaluates teams/{team}, or its golden set is another by now; list again",
        reason="GOLDEN_SET_TAKEN",
        metadata={"team": f"teams/{team}"},
    )


def _failure(failure: pb.TeamGoldenSetFailure) -> NewFailure:
    checks.text("failure.message", failure.message, maximum=_MAX_MESSAGE, required=True)
    retry = checks.time("retry_time", failure, "failure.retry_time")
    if retry is None:
        raise InvalidArgument.field("failure.retry_time", "is required")
    failures = checks.number("failure.failures", failure.failures, minimum=1)
    return NewFailure(message=failure.message, failures=failures, retry_time=retry)


def _result(
    evaluation: scores_pb2.TeamEvaluation, team: str, before: scores_pb2.TeamEvaluation | None
) -> NewResult:
    checks.text("evaluation.team_revision", evaluation.team_revision, required=True)
    checks.text("evaluation.golden_set_sha256", evaluation.golden_set_sha256, required=True)
    whole = scores_pb2.TeamEvaluation()
    whole.CopyFrom(evaluation)
    whole.scheduled, whole.team = True, f"teams/{team}"
    payload = whole.SerializeToString()
    if len(payload) > MAX_BYTES:
        raise InvalidArgument.field(
            "evaluation", f"has {len(payload)} bytes, at most {MAX_BYTES} are allowed"
        )
    whole.ClearField("questions")
    return NewResult(
        id=checks.request_id(evaluation.name.removeprefix("teamEvaluations/")),
        payload=payload,
        newest=whole.SerializeToString(),
        is_other=bool(before and before.team_revision and before.team_revision != evaluation.team_revision),
    )


def _time(moment: datetime | None) -> Timestamp | None:
    return None if moment is None else convert.timestamp(moment)
