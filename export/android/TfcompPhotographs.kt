package tfcomp.example

import android.content.res.AssetManager

/** uint8 pixels of a picture, height * width * channels of them, row by row; one channel if it is grey. */
class Picture(val height: Int, val width: Int, val channels: Int, val pixels: ByteArray)

/**
 * Photographs of up to `side` by `side` pixels to payload bytes and back, with the encoder.tflite and decoder.tflite that
 * `tfcomp export photographs FOLDER --side N` writes, in the app's assets.
 *
 * Tensors have fixed shapes: a smaller picture lies in the first rows and columns. Contexts and range coder are whole
 * numbers that half precision would spoil: run both on the CPU. Not thread-safe; close when done.
 *
 * @param side `side` of the artifact's manifest.json.
 * @param capacity its `max_payload_bytes`.
 * @param qualities how many `qualities` it names.
 */
class TfcompPhotographs(
    assets: AssetManager,
    private val side: Int,
    private val capacity: Int,
    private val qualities: Int,
) : AutoCloseable {
    private val encoder = cpuModel(assets, "encoder.tflite")
    private val decoder = cpuModel(assets, "decoder.tflite")

    private val image = encoder.createInputBuffer("image")
    private val sizeAndQuality = encoder.createInputBuffer("size_and_quality")
    private val payloadOut = encoder.createOutputBuffer("payload")
    private val lengthOut = encoder.createOutputBuffer("length")

    private val payloadIn = decoder.createInputBuffer("payload")
    private val lengthIn = decoder.createInputBuffer("length")
    private val restored = decoder.createOutputBuffer("image")
    private val size = decoder.createOutputBuffer("size")

    /** A picture of three channels -> its payload, which says quality and size. */
    fun compress(picture: Picture, quality: Int): ByteArray {
        val (height, width) = picture.height to picture.width
        require(quality in 1..qualities) { "expected a quality of 1 to $qualities, found $quality" }
        require(height in 1..side && width in 1..side) { "expected 1 to $side pixels a side, found $width x $height" }
        require(picture.channels == CHANNELS && picture.pixels.size == height * width * CHANNELS) {
            "expected ${height * width * CHANNELS} bytes of $CHANNELS channels, found ${picture.pixels.size}"
        }
        val square = ByteArray(side * side * CHANNELS)
        copyRows(picture.pixels, width * CHANNELS, square, side * CHANNELS, height)
        image.writeInt8(square) // the bytes as they are: the tensor is uint8
        sizeAndQuality.writeInt(intArrayOf(height, width, quality))
        encoder.run(
            mapOf("image" to image, "size_and_quality" to sizeAndQuality),
            mapOf("payload" to payloadOut, "length" to lengthOut),
        )
        val length = lengthOut.readInt()[0]
        check(length > 0) { "expected a payload of at most $capacity bytes, found a longer one" }
        return payloadOut.readInt8().copyOf(length)
    }

    /** A payload from any runtime -> the picture. */
    fun decompress(payload: ByteArray): Picture {
        require(payload.size in 1..capacity) { "expected a payload of 1 to $capacity bytes, found ${payload.size}" }
        payloadIn.writeInt8(payload.copyOf(capacity)) // zeros follow the payload
        lengthIn.writeInt(intArrayOf(payload.size))
        decoder.run(mapOf("payload" to payloadIn, "length" to lengthIn), mapOf("image" to restored, "size" to size))
        val (height, width, channels) = size.readInt()
        val square = restored.readInt8()
        val rgb = ByteArray(height * width * CHANNELS)
        copyRows(square, side * CHANNELS, rgb, width * CHANNELS, height)
        val pixels = if (channels == CHANNELS) rgb else ByteArray(height * width) { rgb[it * CHANNELS] }
        return Picture(height, width, channels, pixels)
    }

    override fun close() {
        listOf(image, sizeAndQuality, payloadOut, lengthOut, payloadIn, lengthIn, restored, size).forEach { it.close() }
        encoder.close()
        decoder.close()
    }

    companion object {
        private const val CHANNELS = 3

        /** Pixels as `Bitmap.getPixels` gives them, without their alpha. */
        fun fromArgb(argb: IntArray, height: Int, width: Int): Picture {
            require(argb.size == height * width) { "expected ${height * width} pixels, found ${argb.size}" }
            val pixels = ByteArray(argb.size * CHANNELS) { (argb[it / CHANNELS] shr (16 - 8 * (it % CHANNELS))).toByte() }
            return Picture(height, width, CHANNELS, pixels)
        }

        /** Pixels as `Bitmap.setPixels` takes them. */
        fun toArgb(picture: Picture): IntArray = IntArray(picture.height * picture.width) {
            val at = it * picture.channels
            val value = { channel: Int -> picture.pixels[at + minOf(channel, picture.channels - 1)].toInt() and 0xff }
            (0xff shl 24) or (value(0) shl 16) or (value(1) shl 8) or value(2)
        }

        /** The first bytes of each row, from rows of one length into rows of another. */
        private fun copyRows(from: ByteArray, fromRow: Int, to: ByteArray, toRow: Int, rows: Int) {
            for (row in 0 until rows) {
                from.copyInto(to, row * toRow, row * fromRow, row * fromRow + minOf(fromRow, toRow))
            }
        }
    }
}
