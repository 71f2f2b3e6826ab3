"""Parts of ``tasks.pack``: an external shuffle of d-pixels, and what is measured on the way.

``sources`` accepts d-pixels, ``scatter`` writes them to runs ordered by hash, ``gather`` merges the
runs into shards, ``statistics``, ``mixing`` and ``normalisation`` say what the corpus is.
"""
