import { gguf as parseWithLibrary } from '@huggingface/gguf';
import { describe, expect, test } from 'vitest';
import { gemmaPath, smollm2Path } from '../../test/models.ts';
import { readGguf } from './gguf.ts';

describe.each([
  ['SmolLM2', smollm2Path, 'Q4_1'],
  ['Gemma 3', gemmaPath, 'Q4_K_M'],
] as const)('%s', (_, find, quantization) => {
  test('has the facts that the library finds', async () => {
    const facts = await readGguf(find());
    const theirs = await parseWithLibrary(find(), { allowLocalFile: true, computeParametersCount: true });
    const metadata = theirs.metadata as unknown as Record<string, unknown>;
    const architecture = String(metadata['general.architecture']);
    expect(facts).toMatchObject({
      architecture,
      name: metadata['general.name'],
      parameters: theirs.parameterCount,
      trainedContextTokens: metadata[`${architecture}.context_length`],
      layers: metadata[`${architecture}.block_count`],
      kvHeads: metadata[`${architecture}.attention.head_count_kv`],
      vocabTokens: (metadata['tokenizer.ggml.tokens'] as unknown[]).length,
      chatTemplate: 'tokenizer.chat_template' in metadata,
      tensorCount: theirs.tensorInfos.length,
      quantization,
    });
    // The file ends where its tensors end.
    expect(Number(theirs.tensorDataOffset) + facts.tensorBytes).toBe(facts.fileBytes);
  });
});
