"""Writing a plain network as ONNX.

The graph is what the engine recognises: convolutions with ReLU between, the input added to each
of the four output phases, and a pixel shuffle. Batch, height and width are free.
"""

import torch
from onnx import TensorProto, checker, helper, load, numpy_helper, save


def export(plain, path):
    nodes, weights, name = [], [], "input"
    for i, (weight, bias) in enumerate(plain):
        weights.append(numpy_helper.from_array(weight.detach().contiguous().numpy(), f"w{i}"))
        weights.append(numpy_helper.from_array(bias.detach().numpy(), f"b{i}"))
        nodes.append(helper.make_node("Conv", [name, f"w{i}", f"b{i}"], [f"c{i}"],
                                      kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        name = f"c{i}"
        if i < len(plain) - 1:
            nodes.append(helper.make_node("Relu", [name], [f"r{i}"]))
            name = f"r{i}"
    nodes.append(helper.make_node("Add", [name, "input"], ["phases"]))
    nodes.append(helper.make_node("DepthToSpace", ["phases"], ["output"], blocksize=2, mode="CRD"))
    def value(name, height, width):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, height, width])
    graph = helper.make_graph(nodes, "luma_x2", [value("input", "height", "width")],
                              [value("output", "out_height", "out_width")], weights)
    model = helper.make_model(graph, producer_name="upscaled", opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    checker.check_model(model)
    save(model, path)


def restore(path):
    """The plain network of an ONNX file written by `export`, as torch tensors."""
    weights = {w.name: torch.from_numpy(numpy_helper.to_array(w).copy()) for w in load(path).graph.initializer}
    return [(weights[f"w{i}"], weights[f"b{i}"]) for i in range(len(weights) // 2)]
