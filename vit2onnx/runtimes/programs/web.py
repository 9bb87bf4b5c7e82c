"""Runs a graph in onnxruntime's WebAssembly, in Node or in a headless Chromium.

Both run `web.mjs`. It reads a list of files and the files themselves, by whatever way `read` is given to it, and gives
back what `_outputs` reads.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from vit2onnx.onnx_file import initializers
from vit2onnx.runtimes.programs.messages import operator_in
from vit2onnx.runtimes.programs.protocol import OPENING, Arrays, RefusedError, Report, Run, main
from vit2onnx.runtimes.register import BROWSER

SCRIPT = Path(__file__).with_name("web.mjs")
TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".html": "text/html", ".wasm": "application/wasm"}
PAGE = '<!doctype html><script type="module">import { inBrowser } from "/web.mjs"; inBrowser();</script>'


def open_graph(graph: Path, sets: list[Arrays], report: Report, options: Mapping[str, Any]) -> Run:
    """The graph in a process of `host`, `node` or `chromium`, with all sets of inputs at once.

    `modules` is the folder of npm's packages.
    """
    package = Path(options["modules"]) / "onnxruntime-web"
    report.add(version=json.loads((package / "package.json").read_text(encoding="utf-8"))["version"])
    with tempfile.TemporaryDirectory() as folder:
        files = _files(graph, sets, options, Path(folder))
        found = (_in_node if options["host"] == "node" else _in_chromium)(files, package / "dist", Path(folder))
    report.add(seconds_in_host=found["seconds"])
    message = str(found.get("error", ""))
    if message and found["step"] == OPENING:
        raise RefusedError(message, operator_in("onnxruntime", message))
    made = iter(found["sets"])

    def run(inputs: Arrays) -> Arrays:
        one = next(made, None)
        if one is None:
            raise RefusedError(message, operator_in("onnxruntime", message))
        return _outputs(one)

    return run


def _files(graph: Path, sets: list[Arrays], options: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """What the script reads, by the names that it asks for; `list.json` says what there is."""
    external = sorted({one.file for one in initializers(graph).values()} - {graph})
    files = {"graph.onnx": graph, **{f"external/{path.name}": path for path in external}}
    listed: list[dict[str, Any]] = []
    for number, one in enumerate(sets):
        listed.append({})
        for place, (name, array) in enumerate(one.items()):
            path = folder / f"{number}_{place}.bin"
            path.write_bytes(np.ascontiguousarray(array).tobytes())
            files[path.name] = path
            listed[-1][name] = {"file": path.name, "type": array.dtype.name, "dims": list(array.shape)}
    said = {"sets": listed, "outputs": options["outputs"], "external": [path.name for path in external]}
    files["list.json"] = folder / "list.json"
    files["list.json"].write_text(json.dumps(said), encoding="utf-8")
    return files


def _outputs(one: Mapping[str, Mapping[str, Any]]) -> Arrays:
    """The outputs of a set of inputs, each with its type, dimensions and bytes in base 64."""
    return {
        name: np.frombuffer(base64.b64decode(made["data"]), made["type"]).reshape(made["dims"])
        for name, made in one.items()
    }


def _in_node(files: Mapping[str, Path], dist: Path, folder: Path) -> dict[str, Any]:
    node = shutil.which("node")
    if node is None:
        raise RuntimeError("there is no node on the path")
    index, made = folder / "files.json", folder / "made.json"
    index.write_text(json.dumps({name: str(path.resolve()) for name, path in files.items()}), encoding="utf-8")
    done = subprocess.run(
        [node, str(SCRIPT), str(dist / "ort.node.min.mjs"), str(index), str(made)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    print(done.stdout, done.stderr)
    if not made.exists():
        raise RuntimeError(f"node ended with status {done.returncode}; the log has what it says")
    found: dict[str, Any] = json.loads(made.read_text(encoding="utf-8"))
    return found


def _in_chromium(files: Mapping[str, Path], dist: Path, folder: Path) -> dict[str, Any]:
    """Serve a page on this machine alone, let Chromium open it, and wait for what it sends back."""
    browser = next(filter(None, map(shutil.which, BROWSER)), None)
    if browser is None:
        raise RuntimeError(f"there is none of {', '.join(BROWSER)} on the path")
    served = {f"/{name}": path for name, path in files.items()} | {"/web.mjs": SCRIPT}
    answered: dict[str, Any] = {}
    arrived = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(self.path)
            inside = dist / path.removeprefix("/dist/")
            file = served.get(path) or (inside if path.startswith("/dist/") and inside.parent == dist else None)
            found = file is not None and file.is_file()
            content = PAGE.encode() if path == "/" else file.read_bytes() if found and file else b""
            self.send_response(200 if content else 404)
            self.send_header("Content-Type", "text/html" if path == "/" else TYPES.get(Path(path).suffix, "text/plain"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            answered.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            arrived.set()

        def log_message(self, format: str, *arguments: Any) -> None:
            print(format % arguments)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    flags = ["--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder / 'profile'}"]
    # Chromium's sandbox does not start for root.
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []
    process = subprocess.Popen([browser, *flags, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not arrived.wait(0.2):
            if process.poll() is not None:
                raise RuntimeError(f"{browser} ended with status {process.returncode} and gave no answer")
    finally:
        process.terminate()
        process.wait()
        server.shutdown()
    return answered


if __name__ == "__main__":
    main(open_graph)
