"""Pixels to bytes and back with NumPy and ai-edge-litert alone: python litert_codec.py ARTIFACT IMAGE.npy [QUALITY]

IMAGE.npy holds one image, uint8 [height, width, channels]. It takes artifacts of one image shape and of any size, of
one quality or several.
"""

import json
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


class Codec:
    def __init__(self, artifact, threads=2):
        self.manifest = json.loads((Path(artifact) / "manifest.json").read_text())
        self.encoder = Interpreter(f"{artifact}/encoder.tflite", num_threads=threads)
        self.decoder = Interpreter(f"{artifact}/decoder.tflite", num_threads=threads)
        self.any_size = self.manifest["image_shape"][0] is None
        self.several = len(self.manifest["qualities"]) > 1
        self.capacity = self.manifest["max_payload_bytes"]

    def compress(self, image, quality=None):
        if image.dtype != np.uint8 or (not self.any_size and list(image.shape) != self.manifest["image_shape"]):
            raise ValueError(f"expected uint8 {self.manifest['image_shape']}, found {image.dtype} {list(image.shape)}")
        told = {"quality": np.int32([quality or self.manifest["default_quality"]])}
        result = run(self.encoder, image=image[None], **told if self.any_size or self.several else {})
        payload = result["payload"]
        return (payload if self.any_size else payload[: result["length"][0]]).tobytes()

    def decompress(self, payload, quality=None):
        if self.any_size:  # such a payload says its quality and size
            return run(self.decoder, payload=np.frombuffer(payload, np.uint8)[None])["image"]
        if len(payload) > self.capacity:
            raise ValueError(f"expected a payload of at most {self.capacity} bytes, found {len(payload)}")
        buffer = np.frombuffer(payload.ljust(self.capacity, b"\0"), np.uint8)
        told = {"quality": np.int32([quality or self.manifest["default_quality"]])} if self.several else {}
        return run(self.decoder, payload=buffer, length=np.int32([len(payload)]), **told)["image"][0]


def run(interpreter, **inputs):
    sources, results = tensors(interpreter)
    for name, value in inputs.items():  # an artifact of any size has its tensors set up for each image and payload
        if -1 in sources[name]["shape_signature"]:
            interpreter.resize_tensor_input(sources[name]["index"], value.shape)
    interpreter.allocate_tensors()
    for name, value in inputs.items():
        interpreter.set_tensor(sources[name]["index"], value)
    interpreter.invoke()
    return {name: interpreter.get_tensor(result["index"]) for name, result in results.items()}


def tensors(interpreter):
    runner = interpreter.get_signature_runner()  # which must be gone before the interpreter runs
    return runner.get_input_details(), runner.get_output_details()


if __name__ == "__main__":
    codec, image = Codec(sys.argv[1]), np.load(sys.argv[2])
    quality = int(sys.argv[3]) if len(sys.argv) > 3 else None
    payload = codec.compress(image, quality)
    np.save("restored.npy", codec.decompress(payload, quality))
    print(payload.hex())
