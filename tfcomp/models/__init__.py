"""The models that are trained with Keras. They know nothing of bytes."""
