"""What pyright sees of jaxlib's extension module, which comes without stubs."""

from typing import Any

class Client: ...

class Device:
    device_kind: str
    def memory_stats(self) -> dict[str, int] | None: ...

def __getattr__(name: str) -> Any: ...
