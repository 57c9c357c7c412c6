"""The small files of a checkpoint: config, tokenizer, chat template, sampling, model card."""
