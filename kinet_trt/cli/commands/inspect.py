"""``kinet-trt inspect``: show what a model file contains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kinet_trt.cli.options import JsonOption, require
from kinet_trt.cli.outputs import check_names, check_targets, write_json
from kinet_trt.cli.terminal import plain, print_lines, print_rows, print_table, stdout_console
from kinet_trt.core.notice import NOTICE


def inspect(
    file: Annotated[Path, typer.Argument(help="Model file: .onnx, .engine, or a .pt of kinet-trt train.")],
    json_file: JsonOption = None,
) -> None:
    """Show the card, layers and memory of a model. The model is not run."""
    from kinet_trt.onnx_graph.inspect import inspect_file

    check_names({"--json": json_file})
    check_targets({"--json": json_file}, [file])
    if file.suffix.lower() == ".pt":
        require("inspect", "train", "torch")
        from kinet_trt.export.checkpoint import describe

        document = describe(file)
    else:
        document = inspect_file(file)
    if json_file != "-":
        show_model(document)
    write_json(json_file, document)


def show_model(document: dict[str, Any]) -> None:
    """Print a document of :func:`kinet_trt.onnx_graph.inspect.inspect_file`."""
    console = stdout_console()
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(no_wrap=True, style="dim")
    facts.add_column(overflow="fold")

    def add(name: str, value: str) -> None:
        facts.add_row(name, plain(value))

    add("file", f"{document['file']}, {_bytes(document['size_bytes'])}")
    add("sha256", document["sha256"])
    if "opset" in document:
        opset = ", ".join(f"{name} {number}" for name, number in document["opset"].items())
        add("written by", f"{document['producer'] or 'unknown'}; opset {opset or 'unknown'}")
    for ports in ("inputs", "outputs"):
        for port in document.get(ports, []):
            add(ports[:-1], f"{port['name']}: {port['dtype']} [{', '.join(map(str, port['shape']))}]")
    for name, value in (document["card"] or {}).items():
        if value not in ("", {}, ()) and name not in ("name", "notice", "model_sha256", "version"):
            add(_label(name), value[:12] if name.endswith("sha256") else _value_text(value))
    if card := document["card"]:
        console.print(plain(card["name"]))
    print_table(console, facts)
    if "layers" in document:
        console.print()
        _show_layers(console, document)
    lines = [_memory(document["memory"])] if document.get("memory") else []
    print_lines(console, [*lines, *document["notes"], *([NOTICE] if card else [])])


def _memory(memory: dict[str, Any]) -> str:
    """Return a sentence on the memory that weights and activations take."""
    unknown = f"; {n} tensors of unknown size left out" if (n := memory["unknown_tensors"]) else ""
    return (
        f"Memory: weights {_bytes(memory['weights_bytes'])}; activations {_bytes(memory['activations_bytes'])} for "
        f"{memory['tile']} x {memory['tile']} px ({memory['activations']}; "
        f"a runtime takes up to twice as much{unknown})."
    )


def _show_layers(console: Console, document: dict[str, Any]) -> None:
    rows = []
    for row in [*document["layers"], {"type": "total", "stored": "", "computed": "", **document["total"]}]:
        macs = row.get("macs_per_pixel", 0)
        rows.append(
            [
                plain(row["type"]).replace("\n", " "),
                str(row["count"]),
                f"{row['parameters']:,}" if row["parameters"] else "",
                f"{row['bytes'] / 1e3:,.0f}" if row["bytes"] else "",
                row["stored"],
                row["computed"],
                "?" if macs is None else f"{macs:,.0f}" if macs else "",
            ]
        )
    print_rows(console, ["layer", "count", "parameters", "kB", "stored", "computed", "MAC/px"], rows)


def _label(name: str) -> str:
    return {"mpp": "um/px", "nms_radius": "NMS radius", "roi": "ROI branch"}.get(name, name.replace("_", " "))


def _value_text(value: Any) -> str:
    """Return the text for a value of a card."""
    if isinstance(value, dict):
        return "\n".join(f"{name.replace('_', ' ')} {_value_text(one)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.1f} kB"
