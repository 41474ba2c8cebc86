"""Which object keeps which alive in the Python binding of TensorRT for RTX, read from its symbols.

pybind11's ``keep_alive<Nurse, Patient>`` is part of the type of a bound function; 0 is its result, 1 its object, 2 and
on its arguments (https://pybind11.readthedocs.io/en/stable/advanced/functions.html#keep-alive).
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from conftest import find_program

bindings = pytest.importorskip("tensorrt_rtx_bindings")

# Function in C++, and what the binding keeps: the result its object, the object an argument, ...
KEPT_BY_THE_BINDING = {
    "IRuntime* (nvinfer1::v_1_0::ILogger&)": {"1 2"},
    "runtime_deserialize_cuda_engine::{lambda(nvinfer1::IRuntime&, pybind11::buffer&)": {"0 1"},
    "IExecutionContext* (nvinfer1::ICudaEngine::*)(nvinfer1::ExecutionContextAllocationStrategy)": {"0 1"},
    "IExecutionContext* (nvinfer1::ICudaEngine::*)(nvinfer1::IRuntimeConfig*)": {"0 1", "0 2"},
    "IBuilder* (nvinfer1::v_1_0::ILogger&)": {"1 2"},
    "INetworkDefinition* (nvinfer1::IBuilder::*)(unsigned int)": {"0 1"},
    "IBuilderConfig* (nvinfer1::IBuilder::*)()": {"0 1"},
    "IParser* (nvinfer1::INetworkDefinition&, nvinfer1::v_1_0::ILogger&)": {"1 3", "2 1"},
    "(nvinfer1::IBuilderConfig::*)(nvinfer1::v_1_0::IProgressMonitor*)": {"1 2"},
    "(nvinfer1::IBuilderConfig::*)(nvinfer1::IOptimizationProfile const*)": {"1 2"},
    "bool, nvinfer1::IBuilderConfig, nvinfer1::ITimingCache const&, bool>": {"1 2"},
}
# Without keep_alive: LoadedPlan keeps the engine, the options and the cache; build_plan keeps the builder.
KEPT_BY_US = (
    "IRuntimeConfig* (nvinfer1::ICudaEngine::*)()",
    "IRuntimeCache* (nvinfer1::IRuntimeConfig::*)()",
    "(nvinfer1::IRuntimeConfig::*)(nvinfer1::IRuntimeCache const&)",
    "IOptimizationProfile* (nvinfer1::IBuilder::*)()",
)


@pytest.fixture(scope="module")
def symbols():
    (library,) = Path(bindings.__file__).parent.glob("tensorrt_rtx*.so")
    command = [find_program("nm", package="g++"), "-C", library]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    if not any("keep_alive" in line for line in lines):
        pytest.skip("this binding has no symbols")
    return [line for line in lines if "pybind11::cpp_function" in line]


@pytest.mark.parametrize("function", [*KEPT_BY_THE_BINDING, *KEPT_BY_US])
def test_binding_keeps_alive_what_the_engine_does_not(symbols, function):
    found = [line for line in symbols if function in line]
    assert found
    kept = {f"{nurse} {patient}" for nurse, patient in re.findall(r"keep_alive<(\d)ul, (\d)ul>", "".join(found))}
    assert kept >= KEPT_BY_THE_BINDING.get(function, set())
