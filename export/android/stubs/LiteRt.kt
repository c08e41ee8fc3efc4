// The part of LiteRT's Kotlin API that the examples call, without its working: so that they compile where the library is
// not at hand (Maven: com.google.ai.edge.litert:litert). Names and types are those of its published source, version 2.
package com.google.ai.edge.litert

import android.content.res.AssetManager

enum class Accelerator { NONE, CPU, GPU, NPU }

class Environment private constructor() : AutoCloseable {
    override fun close(): Unit = TODO()
}

class TensorBuffer internal constructor() : AutoCloseable {
    fun writeInt(data: IntArray): Unit = TODO("$data")
    fun writeInt8(data: ByteArray): Unit = TODO("$data")
    fun readInt(): IntArray = TODO()
    fun readInt8(): ByteArray = TODO()
    override fun close(): Unit = TODO()
}

class CompiledModel private constructor() : AutoCloseable {
    class Options(vararg val accelerators: Accelerator)

    fun createInputBuffer(inputName: String, signature: String? = null): TensorBuffer = TODO("$inputName $signature")
    fun createOutputBuffer(outputName: String, signature: String? = null): TensorBuffer = TODO("$outputName $signature")
    fun run(inputs: Map<String, TensorBuffer>, outputs: Map<String, TensorBuffer>, signature: String? = null): Unit =
        TODO("$inputs $outputs $signature")

    override fun close(): Unit = TODO()

    companion object {
        fun create(
            assetManager: AssetManager,
            assetName: String,
            options: Options = Options(Accelerator.CPU),
            optionalEnv: Environment? = null,
        ): CompiledModel = TODO("$assetManager $assetName $options $optionalEnv")
    }
}
