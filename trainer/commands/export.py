"""The command `export`: from a run to a model of the service."""

import argparse
import subprocess
import sys
from pathlib import Path

from service.contract.manifest import MANIFEST_FILE
from service.contract.signature import read_secret_key, signature_of
from trainer import export
from trainer.commands.options import UsageError, add_command, add_overwrite
from trainer.commands.train import load_images
from trainer.data.emoji import read_pictographs
from trainer.run import checkpoint


def add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", examples: str) -> None:
    """Add export to the trainer's command line."""
    command = add_command(commands, "export", "export a run as a model for the service", examples)
    command.set_defaults(command=run_export)
    command.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    command.add_argument("target", type=Path, metavar="weights/NAME", help="folder of the model, NAME is its name")
    command.add_argument("--data-dir", type=Path, help="folder of the training images, if they were moved")
    command.add_argument("--unfinished", action="store_true", help="export a run before its last step")
    command.add_argument(
        "--changed-data",
        action="store_true",
        help="accept images that differ from the training images; the latent map shows them",
    )
    command.add_argument(
        "--sign",
        type=Path,
        metavar="KEYFILE",
        help="sign the manifest with this secret key, made by: minisign -GW -s KEYFILE",
    )
    add_overwrite(command, "replace the model in the folder by a new version; the previous one is kept for a rollback")


def run_export(options: argparse.Namespace) -> None:
    """Export as the options say."""
    if (options.target / MANIFEST_FILE).exists() and not options.overwrite:
        raise UsageError(
            f"{options.target} already contains a model: choose another name, or replace it with --overwrite"
        )
    key = read_secret_key(options.sign) if options.sign else None
    if _is_tracked(options.target / MANIFEST_FILE):
        print(
            f"warning: git tracks {options.target}: this replaces a model of the repository; "
            f"`git restore {options.target}` brings it back",
            file=sys.stderr,
            flush=True,
        )
    config, state = checkpoint.load(options.run)
    export.require_finished(options.run, config, state, unfinished=options.unfinished)
    kept, images = state.get("data_dir"), None
    data_dir = options.data_dir or (Path(kept) if kept else None)
    if export.needs_pictures(config):
        images = load_images(config, data_dir)
        print(f"data: {images.provenance}", flush=True)
    manifest = export.export(
        options.run,
        options.target,
        images,
        pictographs=read_pictographs(data_dir) if config.captioned and config.dataset == "emoji" else None,
        unfinished=options.unfinished,
        changed_data=options.changed_data,
        key=key,
        report=lambda line: print(line, flush=True),
    )
    print(f"{options.target}/{manifest.artifact.file}: {manifest.artifact.size:,} bytes")
    if key is not None:
        print(f"{signature_of(options.target / MANIFEST_FILE)}: signed")


def _is_tracked(path: Path) -> bool:
    """Whether git has ``path`` under version control; False without git."""
    if not path.exists():
        return False
    command = ["git", "-C", str(path.parent), "ls-files", "--error-unmatch", path.name]
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
