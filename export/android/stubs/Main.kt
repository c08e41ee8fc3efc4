// One picture through the examples and back, for tests/test_android.py: the payload and the pixels go into two files.
//   Main shape CAPACITY QUALITIES QUALITY PIXELS PAYLOAD RESTORED
//   Main photograph SIDE CAPACITY QUALITIES QUALITY HEIGHT WIDTH PIXELS PAYLOAD RESTORED
// A photograph goes by way of the pixels that a Bitmap has.
package tfcomp.example

import android.content.res.AssetManager
import java.io.File

fun main(args: Array<String>) {
    val numbers = args.mapNotNull { it.toIntOrNull() }
    val (pixels, payload, restored) = args.takeLast(3).map { File(it) }
    if (args[0] == "shape") {
        val (capacity, qualities, quality) = numbers
        TfcompCodec(AssetManager(), capacity, qualities).use {
            payload.writeBytes(it.compress(pixels.readBytes(), quality))
            restored.writeBytes(it.decompress(payload.readBytes(), quality))
        }
        return
    }
    val (side, capacity, qualities, quality, height) = numbers
    val width = numbers[5]
    TfcompPhotographs(AssetManager(), side, capacity, qualities).use {
        val argb = TfcompPhotographs.toArgb(Picture(height, width, 3, pixels.readBytes()))
        payload.writeBytes(it.compress(TfcompPhotographs.fromArgb(argb, height, width), quality))
        val found = it.decompress(payload.readBytes())
        check(found.height == height && found.width == width) { "found ${found.width} x ${found.height}" }
        restored.writeBytes(found.pixels)
    }
}
