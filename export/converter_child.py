"""The converter's own process: `python converter_child.py PREFIX MODEL.onnx OPSET`. Started by converter.py only.

paddle2onnx may abort, exit or hang on a network that it does not know; here it takes nothing down but this process.
"""

import sys

if __name__ == "__main__":
    del sys.path[0]  # the folder of this file: its modules must not stand in for installed packages
    import paddle2onnx

    prefix, model, opset = sys.argv[1:]
    paddle2onnx.export(
        f"{prefix}.json",
        f"{prefix}.pdiparams",
        model,
        opset_version=int(opset),
        optimize_tool="None",  # the default, polygraphy, installs packages from the network
        enable_onnx_checker=True,
    )
