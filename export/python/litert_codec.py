"""Pixels to bytes and back with NumPy and ai-edge-litert alone: python litert_codec.py ARTIFACT IMAGE.npy"""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter


class Codec:
    def __init__(self, artifact):
        # A runner keeps its interpreter alive, and knows the names and shapes of its inputs and outputs.
        self.encode = Interpreter(f"{artifact}/encoder.tflite").get_signature_runner()
        self.decode = Interpreter(f"{artifact}/decoder.tflite").get_signature_runner()
        self.image_shape = self.encode.get_input_details()["image"]["shape"]
        self.capacity = self.decode.get_input_details()["payload"]["shape"][0]

    def compress(self, image):
        result = self.encode(image=image.astype(np.uint8, casting="safe").reshape(self.image_shape))
        return result["payload"][: result["length"][0]].tobytes()

    def decompress(self, payload):
        if len(payload) > self.capacity:
            raise ValueError(f"expected a payload of at most {self.capacity} bytes, found {len(payload)}")
        buffer = np.frombuffer(payload.ljust(self.capacity, b"\0"), np.uint8)
        return self.decode(payload=buffer, length=np.int32([len(payload)]))["image"][0]


if __name__ == "__main__":
    codec, image = Codec(sys.argv[1]), np.load(sys.argv[2])
    payload = codec.compress(image)
    np.save("restored.npy", codec.decompress(payload))
    print(payload.hex())
