"""Parts of ``tessera verify``: what DVC pins, where its objects are, whether their bytes are right."""
