"""Photographs to bytes and back with NumPy and ai-edge-litert alone: python litert_photographs.py ARTIFACT IMAGE.npy"""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter


class Photographs:
    def __init__(self, artifact):
        self.encode = Interpreter(f"{artifact}/encoder.tflite", num_threads=2)
        self.decode = Interpreter(f"{artifact}/decoder.tflite", num_threads=2)

    def compress(self, image, quality=5):
        return run(self.encode, image=image[None], quality=np.int32([quality])).tobytes()

    def decompress(self, payload):
        return run(self.decode, payload=np.frombuffer(payload, np.uint8)[None])


def run(interpreter, **inputs):
    details = interpreter.get_signature_runner().get_input_details()
    for name, value in inputs.items():  # the graphs take any size: each image, and each payload, has its own
        interpreter.resize_tensor_input(details[name]["index"], value.shape)
    interpreter.allocate_tensors()
    for name, value in inputs.items():
        interpreter.set_tensor(details[name]["index"], value)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


if __name__ == "__main__":
    codec, image = Photographs(sys.argv[1]), np.load(sys.argv[2])  # uint8 [H, W, 3]
    payload = codec.compress(image)
    np.save("restored.npy", codec.decompress(payload))
    print(payload.hex())
