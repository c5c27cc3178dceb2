"""From a checkpoint to models that run without this project: Paddle programs and ONNX, each checked before it is kept.

`exporter.export` is the whole act; the other modules are its steps. Needs paddle, onnx, paddle2onnx and onnxruntime.
"""
