"""An MCP server with two tools, for examples/tools/mcp.yaml and approval.yaml."""

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("orders")
orders = {17: "on its way", 18: "delivered"}


@server.tool()
def find_order(number: int) -> str:
    """Says where an order is."""
    if number not in orders:
        raise ToolError(f"there is no order {number}; there are {', '.join(map(str, orders))}")
    return f"Order {number} is {orders[number]}."


@server.tool()
def cancel_order(number: int) -> str:
    """Cancels an order. What is cancelled already stays so: the call may be made twice."""
    if number not in orders:
        raise ToolError(f"there is no order {number}")
    orders[number] = "cancelled"
    return f"Order {number} is cancelled."


if __name__ == "__main__":
    server.run("streamable-http", host="127.0.0.1", port=8765)
