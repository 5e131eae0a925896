#!/usr/bin/env python3
"""Forward times of onnxruntime on one thread for the networks of inference_bench: medians of a second each, in us.

`taskset -c 1 PYTHON bench/onnxruntime_inference.py`, in turn with `taskset -c 1 build/bench/inference_bench`; PYTHON has numpy, onnx
and onnxruntime.
"""
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

RANDOM = np.random.default_rng(0)


class Net:
    """An ONNX graph in the making: each method adds an operator and gives its output's name."""

    def __init__(self) -> None:
        self.nodes, self.weights, self.count = [], [], 0

    def op(self, kind: str, *inputs: str, **attributes) -> str:
        self.count += 1
        self.nodes.append(helper.make_node(kind, inputs, [f"t{self.count}"], **attributes))
        return f"t{self.count}"

    def weight(self, *shape: int) -> str:
        self.count += 1
        values = (RANDOM.standard_normal(shape) * 0.05).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, f"w{self.count}"))
        return f"w{self.count}"

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        return self.op("Gemm", x, self.weight(outputs, inputs), self.weight(outputs), transB=1)

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> str:
        weight, bias = self.weight(outputs, inputs, kernel, kernel), self.weight(outputs)
        return self.op("Conv", x, weight, bias, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4)

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def heads(self, x: str, inputs: int, hidden: int) -> str:
        return self.linear(self.relu(self.linear(self.op("Flatten", x), inputs, hidden)), hidden, 6)


def mlp(n: Net) -> str:
    x = n.op("Tanh", n.linear("x", 4, 64))
    return n.linear(n.op("Tanh", n.linear(x, 64, 64)), 64, 2)


def minatar_cnn(n: Net) -> str:
    return n.heads(n.relu(n.conv("x", 4, 16, 3)), 1024, 128)


def nature_cnn(n: Net) -> str:
    x = n.relu(n.conv(n.relu(n.conv("x", 4, 32, 8, 4)), 32, 64, 4, 2))
    return n.heads(n.relu(n.conv(x, 64, 64, 3)), 3136, 512)


def impala_resnet(n: Net) -> str:
    x, inputs = "x", 4
    for filters in (16, 32, 32):
        x = n.op("MaxPool", n.conv(x, inputs, filters, 3, 1, 1), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        inputs = filters
        for _ in range(2):
            inner = n.conv(n.relu(x), filters, filters, 3, 1, 1)
            x = n.op("Add", x, n.conv(n.relu(inner), filters, filters, 3, 1, 1))
    return n.heads(n.relu(x), 3872, 256)


def median_us(make, shape: tuple[int, ...]) -> float:
    net = Net()
    output = make(net)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(net.nodes, "net", [info("x", TensorProto.FLOAT, shape)], [info(output, TensorProto.FLOAT, None)], net.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(RANDOM.standard_normal(shape).astype(np.float32)))
    binding.bind_output(output, "cpu")
    times, end = [], time.perf_counter() + 1.0
    while time.perf_counter() < end or len(times) < 10:
        begin = time.perf_counter()
        session.run_with_iobinding(binding)
        times.append(time.perf_counter() - begin)
    return float(np.median(times)) * 1e6


def main() -> None:
    for make, shape in ((mlp, (4,)), (minatar_cnn, (4, 10, 10)), (nature_cnn, (4, 84, 84)), (impala_resnet, (4, 84, 84))):
        for batch in (1, 8, 64):
            print(f"{make.__name__:14} batch {batch:3} {median_us(make, (batch, *shape)):10.1f} us", flush=True)


if __name__ == "__main__":
    main()
