"""What ``benchmarks.training`` measures: Flan-T5-base's exact shape, and a model of it that answers as a small one."""

import pytest
import torch
from transformers import T5Config

from benchmarks.training_ways import base_config, empty, enlarged


def test_the_base_shape_is_the_published_one() -> None:
    with torch.device("meta"):
        model = empty(base_config())
    assert sum(parameter.numel() for parameter in model.parameters()) == 247_577_856


@pytest.mark.parametrize("tied", [True, False])
def test_an_enlarged_model_answers_as_the_small_one(tied: bool) -> None:
    def shape(width: int, heads: int, head: int, inner: int, layers: int, vocabulary: int, *, tied: bool) -> T5Config:
        return T5Config(
            vocab_size=vocabulary,
            d_model=width,
            num_heads=heads,
            d_kv=head,
            d_ff=inner,
            num_layers=layers,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
            tie_word_embeddings=tied,
        )

    torch.manual_seed(1)
    small = empty(shape(16, 2, 8, 24, 1, 50, tied=tied)).eval()
    large = enlarged(small, shape(40, 3, 16, 64, 3, 70, tied=False)).eval()
    ids, labels = torch.randint(2, 50, (4, 9)), torch.randint(2, 50, (4, 5))
    with torch.inference_mode():
        wanted = small(input_ids=ids, labels=labels).logits
        found = large(input_ids=ids, labels=labels).logits
    torch.testing.assert_close(found[..., :50], wanted, rtol=1e-4, atol=1e-4)
    assert not found[..., 50:].any()
