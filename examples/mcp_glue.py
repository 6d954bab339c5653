"""What the official MCP SDK has to be told of callers and errors; to be copied as it is."""

import json
from typing import Any

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import UnexpectedToolError
from mcp_types import CallToolResult, InputRequiredResult, TextContent
from starlette.types import ASGIApp, Receive, Scope, Send

from obo_asgi import Downstream, downstream_from, error_response


class Server(MCPServer):
    """Turns what a tool raises into what a web API would answer: what the user has to do."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        try:
            return await super().call_tool(name, arguments, context)
        except UnexpectedToolError as error:
            if (answer := error_response(error.__cause__ or error)) is None:
                raise
            text, facts = TextContent(text=answer.body.decode()), json.loads(answer.body)
            return CallToolResult(is_error=True, content=[text], structured_content=facts)


def tell_owner(app: ASGIApp) -> ASGIApp:
    """Tell the SDK who calls: it lets nobody into an MCP session but the user who opened it."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            user = downstream_from(scope).user
            client = user.claims.get("azp") or user.claims.get("appid", "")
            known = AccessToken(token="", client_id=client, subject=user.identity, scopes=[])
            scope = {**scope, "user": AuthenticatedUser(known)}
        await AuthContextMiddleware(app)(scope, receive, send)

    return call


def downstream_of(ctx: Context[Any, Any]) -> Downstream:
    """Return the APIs of the HTTP request of a call: the MCP session outlives its first token."""
    request = ctx.request_context.request
    return downstream_from({} if request is None else request.scope)
