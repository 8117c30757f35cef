"""A small GENERator on one bacterial chromosome, on a laptop."""

from gener_jax.config import base


def get_config():
    config = base()
    config.model.update(
        hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=1024, initializer_range=0.02,
    )
    config.data.update(path="datasets/quickstart", context_length=512, build_from=("../shared/data/genomes/prokaryote/mmycoides_GM12_NZ_CP001668.gbff.gz",))
    config.optimizer.update(peak_learning_rate=2e-3, warmup_steps=50)
    config.train.update(num_steps=600, batch_size=8)
    config.checkpoint.every_steps = 200
    config.eval.every_steps = 100
    config.sample.update(prompts=("ATG",), num_samples=8)
    return config
