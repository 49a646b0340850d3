"""Judges an exported network: onnx.checker, then onnxruntime against expected outputs.

Usage: onnx_check.py MODEL.onnx CASES.json

CASES.json holds {"observation": [[...], ...], "outputs": {"logits": [[...], ...], ...}}.
Prints the largest absolute difference; fails when it is above 1e-5 or the file is not valid ONNX.
"""

import json
import sys

import numpy
import onnx
import onnxruntime

TOLERANCE = 1e-5


def main(model_path: str, cases_path: str) -> int:
    onnx.checker.check_model(onnx.load(model_path), full_check=True)
    with open(cases_path, encoding="utf-8") as file:
        cases = json.load(file)
    observation = numpy.array(cases["observation"], dtype=numpy.float32)
    session = onnxruntime.InferenceSession(model_path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    if sorted(names) != sorted(cases["outputs"]):
        print(f"outputs: got {names}, expected {sorted(cases['outputs'])}")
        return 1
    worst = 0.0
    for name, figures in zip(names, session.run(names, {"observation": observation})):
        expected = numpy.array(cases["outputs"][name], dtype=numpy.float32)
        if figures.shape != expected.shape:
            print(f"{name}: got shape {figures.shape}, expected {expected.shape}")
            return 1
        worst = max(worst, float(numpy.abs(figures - expected).max()))
    print(f"largest difference {worst:.3g} over {len(observation)} observations and outputs {names}")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
