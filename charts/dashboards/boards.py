"""All dashboards, in the order of the menu."""

from charts.dashboards.faithfulness import FAITHFULNESS
from charts.dashboards.knowledge import INGEST, RETRIEVAL
from charts.dashboards.machines import OPERATOR, SATURATION
from charts.dashboards.models import MODELS
from charts.dashboards.panels import Board
from charts.dashboards.turns import OVERVIEW, TURN

BOARDS: tuple[Board, ...] = (OVERVIEW, TURN, RETRIEVAL, FAITHFULNESS, MODELS, INGEST, SATURATION, OPERATOR)
