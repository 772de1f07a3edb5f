"""Serves one GGUF model over llama.cpp's OpenAI-compatible HTTP server on loopback, until SIGTERM or SIGINT.

usage: serve_model.py MODEL.gguf NAME PORT [CONTEXT_TOKENS]

Prints one line, "listening on http://127.0.0.1:PORT", once the model is loaded.
"""

import signal
import sys
import threading
from pathlib import Path


def main() -> int:
    if len(sys.argv) not in (4, 5):
        print(__doc__, file=sys.stderr)
        return 64
    model, name, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    context = int(sys.argv[4]) if len(sys.argv) == 5 else 8192
    if not model.is_file():
        print(f"serve-model: {model} is missing", file=sys.stderr)
        return 66

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {name}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = context
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.offline = True
    params.ui = False
    params.verbosity = 1

    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())

    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", flush=True)
    # Waking up now and then lets Python run the signal handlers.
    while not stopping.wait(0.5):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
