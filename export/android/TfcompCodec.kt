package tfcomp.example

import android.content.res.AssetManager
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel

/**
 * Pixels to payload bytes and back, with the encoder.tflite and decoder.tflite of an artifact in the app's assets.
 *
 * The range coder is integer control flow: run both on the CPU. Not thread-safe; close when done.
 *
 * @param capacity `max_payload_bytes` of the artifact's manifest.json.
 */
class TfcompCodec(assets: AssetManager, private val capacity: Int) : AutoCloseable {
    private val encoder = compile(assets, "encoder.tflite")
    private val decoder = compile(assets, "decoder.tflite")

    private val image = encoder.createInputBuffer("image")
    private val payloadOut = encoder.createOutputBuffer("payload")
    private val lengthOut = encoder.createOutputBuffer("length")

    private val payloadIn = decoder.createInputBuffer("payload")
    private val lengthIn = decoder.createInputBuffer("length")
    private val restored = decoder.createOutputBuffer("image")

    /** uint8 pixels, height * width * channels of them, row by row -> the payload. */
    fun compress(pixels: ByteArray): ByteArray {
        image.writeInt8(pixels) // the bytes as they are: the tensor is uint8
        encoder.run(mapOf("image" to image), mapOf("payload" to payloadOut, "length" to lengthOut))
        return payloadOut.readInt8().copyOf(lengthOut.readInt()[0])
    }

    /** A payload from any runtime -> uint8 pixels; `pixel.toInt() and 0xff` is a pixel's value. */
    fun decompress(payload: ByteArray): ByteArray {
        require(payload.size <= capacity) { "expected a payload of at most $capacity bytes, found ${payload.size}" }
        payloadIn.writeInt8(payload.copyOf(capacity)) // zeros follow the payload
        lengthIn.writeInt(intArrayOf(payload.size))
        decoder.run(mapOf("payload" to payloadIn, "length" to lengthIn), mapOf("image" to restored))
        return restored.readInt8()
    }

    override fun close() {
        listOf(image, payloadOut, lengthOut, payloadIn, lengthIn, restored).forEach { it.close() }
        encoder.close()
        decoder.close()
    }

    private companion object {
        fun compile(assets: AssetManager, name: String): CompiledModel =
            CompiledModel.create(assets, name, CompiledModel.Options(Accelerator.CPU))
    }
}
