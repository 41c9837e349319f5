"""Training of a VQ-KD visual tokenizer: `train` on pictures given by `photos` or a build's `corpus`, to a teacher of
`teachers`, with the codebook that moves in `codebook`. What comes out is read by `imglish.tokenize.vqkd`."""
