// Android's class, by its name alone: the examples hand it on.
package android.content.res

class AssetManager
