/** What config.json of a small checkpoint says, so far as Berth reads it. */
export const TINY_LLAMA = {
  architectures: ['LlamaForCausalLM'],
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
} as const;
