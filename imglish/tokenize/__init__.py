"""Text ids, visual codes and the stages that make them for a corpus.

    text         SentencePiece behind the id layout of the released checkpoints
    visual       the protocol of visual tokenizers, and how to open one
    codebook     the embedded visual tokenizer: exact k-means over patches
    fit          both tokenizers from the kept records of the train split
    tasks        landing files -> members, documents, images
    preprocess   pictures and strings -> what a model takes

Only `preprocess` needs torch.
"""
