// The part of LiteRT's Kotlin API that the examples call, so that they compile and run on a JVM, without Android and where
// the library is not at hand (Maven: com.google.ai.edge.litert:litert). Names and types are those of its published source,
// version 2. A run sends the file's name and the inputs to standard output and reads the outputs from standard input, where
// tests/test_android.py has LiteRT for Python compute them from the same file.
package com.google.ai.edge.litert

import android.content.res.AssetManager
import java.io.DataInputStream
import java.io.DataOutputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder

enum class Accelerator { NONE, CPU, GPU, NPU }

class Environment private constructor() : AutoCloseable {
    override fun close() {}
}

class TensorBuffer internal constructor() : AutoCloseable {
    internal var content = ByteArray(0)
        get() = field.also { check(open) { "this buffer is closed" } }

    private var open = true

    fun writeInt(data: IntArray) {
        val bytes = ByteBuffer.allocate(4 * data.size).order(ByteOrder.LITTLE_ENDIAN)
        bytes.asIntBuffer().put(data)
        content = bytes.array()
    }

    fun writeInt8(data: ByteArray) {
        content = data.copyOf()
    }

    fun readInt(): IntArray {
        val ints = ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN).asIntBuffer()
        return IntArray(ints.remaining()).also { ints.get(it) }
    }

    fun readInt8(): ByteArray = content.copyOf()

    override fun close() {
        open = false
    }
}

class CompiledModel private constructor(private val file: String) : AutoCloseable {
    class Options(vararg val accelerators: Accelerator)

    private val inputs = mutableMapOf<TensorBuffer, String>()
    private val outputs = mutableMapOf<TensorBuffer, String>()

    fun createInputBuffer(inputName: String, signature: String? = null): TensorBuffer =
        TensorBuffer().also { inputs[it] = inputName + signature.orEmpty() }

    fun createOutputBuffer(outputName: String, signature: String? = null): TensorBuffer =
        TensorBuffer().also { outputs[it] = outputName + signature.orEmpty() }

    fun run(inputs: Map<String, TensorBuffer>, outputs: Map<String, TensorBuffer>, signature: String? = null) {
        for ((name, buffer) in inputs) check(this.inputs[buffer] == name + signature.orEmpty()) { "no input $name of $file" }
        for ((name, buffer) in outputs) check(this.outputs[buffer] == name + signature.orEmpty()) { "no output $name of $file" }
        val asked = DataOutputStream(System.out)
        asked.writeUTF(file)
        asked.writeInt(inputs.size)
        for ((name, buffer) in inputs) {
            asked.writeUTF(name)
            asked.writeInt(buffer.content.size)
            asked.write(buffer.content)
        }
        asked.flush()
        val answered = DataInputStream(System.`in`)
        repeat(answered.readInt()) {
            val buffer = outputs.getValue(answered.readUTF())
            buffer.writeInt8(ByteArray(answered.readInt()).also { answered.readFully(it) })
        }
    }

    override fun close() {}

    companion object {
        fun create(
            assetManager: AssetManager,
            assetName: String,
            options: Options = Options(Accelerator.CPU),
            optionalEnv: Environment? = null,
        ): CompiledModel {
            check(options.accelerators.toList() == listOf(Accelerator.CPU) && optionalEnv == null) { "$assetManager" }
            return CompiledModel(assetName)
        }
    }
}
