"""Answer requests over HTTP: `beacon-serve`, or `python serve.py` in a checkout; settings: conf/serve.yaml."""

import secrets
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from transformers import set_seed

from beacon_lit.arch import RowDecoding, check_ratio
from beacon_lit.chat.template import ChatTemplate
from beacon_lit.checks import check_counts, check_writable
from beacon_lit.cli.checks import check_trained
from beacon_lit.cli.command import command
from beacon_lit.cli.generate import adaptive
from beacon_lit.cli.messages import short_errors

_MIB = 2**20


def serve(cfg: DictConfig) -> None:
    """Serve the model of `cfg` (conf/serve.yaml) until the process is interrupted or terminated.

    Raises:
        ValueError: a setting is wrong, a package is missing, or the port is taken.
    """
    try:
        from beacon_lit.serving.server import Server
    except ImportError as error:
        raise ValueError(f"{error}; serving needs: pip install 'beacon_lit[serve]'") from error
    console = Console(highlight=False, markup=False, soft_wrap=True)
    key = cfg.api_key or secrets.token_urlsafe(24)
    app = application(cfg, str(key))
    server = Server(app, app.state.worker, cfg.host, cfg.port, cfg.graceful_seconds)
    try:
        socket = server.config.bind_socket()
    except SystemExit:  # of uvicorn, which has said why
        raise ValueError(f"host={cfg.host} port={cfg.port} cannot be used; allowed: a free port, 0 for any") from None
    host, port = socket.getsockname()[:2]
    console.print(f"serving {app.state.service.name} at http://{host}:{port}/v1")
    console.print(f"page: http://{host}:{port}/")
    console.print(f"API key: {'as given' if cfg.api_key else key}")
    server.run(sockets=[socket])


def application(cfg: DictConfig, key: str) -> Any:
    """Load the model and make the application, whose worker is running."""
    try:
        from beacon_lit.serving.app import make_app
        from beacon_lit.serving.documents import Documents
        from beacon_lit.serving.metrics import Metrics
        from beacon_lit.serving.prefixes import Prefixes
        from beacon_lit.serving.service import Service
        from beacon_lit.serving.worker import Worker
    except ImportError as error:
        raise ValueError(f"{error}; serving needs: pip install 'beacon_lit[serve]'") from error
    _check(cfg)
    set_seed(cfg.seed)
    lm, tokenizer = adaptive(cfg)
    lm.eval()
    if cfg.ratio is not None:
        check_ratio(cfg.ratio, lm.beacon.window)
    options: Any = OmegaConf.to_container(cfg.template)
    metrics, folder = Metrics(), Path(cfg.folder)
    documents = Documents(folder / "files", int(cfg.disk_mib * _MIB), lambda: metrics.count("evicted_documents_total"))
    service = Service(
        lm, tokenizer, ChatTemplate.of(tokenizer, options), cfg.name or Path(cfg.model.path).name, documents,
        Prefixes(int(cfg.memory_mib * _MIB)), metrics, folder / "prefixes", cfg.ratio,
        cfg.max_new_tokens,
    )  # fmt: skip
    service.start()
    worker = Worker(RowDecoding(lm, cfg.batch_size, cfg.ratio), cfg.queue, service.prefixes.clear)
    return make_app(service, worker, key, int(cfg.upload_mib * _MIB))


def _check(cfg: DictConfig) -> None:
    """Check the settings of the server before the model is loaded."""
    check_counts(0, port=cfg.port)
    check_counts(1, batch_size=cfg.batch_size, queue=cfg.queue, max_new_tokens=cfg.max_new_tokens)
    for name in ("disk_mib", "memory_mib", "upload_mib", "graceful_seconds"):
        if not isinstance(cfg[name], int | float) or cfg[name] < 0:
            raise ValueError(f"{name}={cfg[name]} is not allowed; allowed: a number >= 0")
    check_writable("folder", cfg.folder)


@command("serve", check_trained)
def main(cfg: DictConfig) -> None:
    """Run the command line."""
    try:
        with short_errors():
            serve(cfg)
    except KeyboardInterrupt:  # after a graceful stop
        sys.exit(130)


if __name__ == "__main__":
    main()
