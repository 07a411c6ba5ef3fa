"""What the orchestrator reads from the environment."""

from pathlib import Path

from pydantic import Field, SecretStr

from servicekit.config import ServerSettings


class Settings(ServerSettings):
    """Variables begin with AGENTTEAMS_, such as AGENTTEAMS_SESSION_TARGET."""

    session_target: str = Field("127.0.0.1:50053", description="host:port of the session service.")
    retrieval_target: str = Field("127.0.0.1:50052", description="host:port of the retrieval service.")
    embedding_target: str = Field("127.0.0.1:50051", description="host:port of the embedding service.")
    manifests_dir: Path = Field(description="Folder of manifests, watched for changes.")
    secrets_dir: Path | None = Field(None, description="Folder where Secrets are mounted, <name>/<key>.")
    builtin_chat_url: str | None = Field(None, description="What provider BuiltIn means: base URL with /v1.")
    builtin_chat_model: str = Field("", description="Model name at that URL.")
    builtin_chat_api_key: SecretStr = Field(SecretStr(""), description="Its API key, where it needs one.")
