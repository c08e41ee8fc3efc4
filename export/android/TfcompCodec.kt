package tfcomp.example

import android.content.res.AssetManager
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel

/**
 * Pixels of one shape to payload bytes and back, with the encoder.tflite and decoder.tflite of an artifact in the app's
 * assets.
 *
 * The range coder is integer control flow: run both on the CPU. Not thread-safe; close when done.
 *
 * @param capacity `max_payload_bytes` of the artifact's manifest.json.
 * @param qualities how many `qualities` the manifest names; with several, both files take one more input.
 */
class TfcompCodec(assets: AssetManager, private val capacity: Int, private val qualities: Int = 1) : AutoCloseable {
    private val encoder = cpuModel(assets, "encoder.tflite")
    private val decoder = cpuModel(assets, "decoder.tflite")

    private val image = encoder.createInputBuffer("image")
    private val payloadOut = encoder.createOutputBuffer("payload")
    private val lengthOut = encoder.createOutputBuffer("length")
    private val qualityOut = if (qualities > 1) encoder.createInputBuffer("quality") else null

    private val payloadIn = decoder.createInputBuffer("payload")
    private val lengthIn = decoder.createInputBuffer("length")
    private val restored = decoder.createOutputBuffer("image")
    private val qualityIn = if (qualities > 1) decoder.createInputBuffer("quality") else null

    /** uint8 pixels, height * width * channels of them, row by row -> the payload, of a quality from 1. */
    fun compress(pixels: ByteArray, quality: Int = 1): ByteArray {
        check(quality)
        image.writeInt8(pixels) // the bytes as they are: the tensor is uint8
        val inputs = mutableMapOf("image" to image)
        qualityOut?.let { it.writeInt(intArrayOf(quality)); inputs["quality"] = it }
        encoder.run(inputs, mapOf("payload" to payloadOut, "length" to lengthOut))
        return payloadOut.readInt8().copyOf(lengthOut.readInt()[0])
    }

    /** A payload from any runtime -> uint8 pixels; `pixel.toInt() and 0xff` is a pixel's value. */
    fun decompress(payload: ByteArray, quality: Int = 1): ByteArray {
        check(quality)
        require(payload.size <= capacity) { "expected a payload of at most $capacity bytes, found ${payload.size}" }
        payloadIn.writeInt8(payload.copyOf(capacity)) // zeros follow the payload
        lengthIn.writeInt(intArrayOf(payload.size))
        val inputs = mutableMapOf("payload" to payloadIn, "length" to lengthIn)
        qualityIn?.let { it.writeInt(intArrayOf(quality)); inputs["quality"] = it }
        decoder.run(inputs, mapOf("image" to restored))
        return restored.readInt8()
    }

    private fun check(quality: Int) =
        require(quality in 1..qualities) { "expected a quality of 1 to $qualities, found $quality" }

    override fun close() {
        listOfNotNull(image, payloadOut, lengthOut, qualityOut, payloadIn, lengthIn, restored, qualityIn).forEach { it.close() }
        encoder.close()
        decoder.close()
    }
}

/** A .tflite file of the app's assets, for the CPU. */
internal fun cpuModel(assets: AssetManager, name: String): CompiledModel =
    CompiledModel.create(assets, name, CompiledModel.Options(Accelerator.CPU))
