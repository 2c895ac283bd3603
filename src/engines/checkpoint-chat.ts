/** Chat messages as the text that a model's folder says, for servers that don't make tokens of messages themselves. */
import { BerthError } from '../errors.ts';
import { readTemplate } from './checkpoint.ts';
import type { PromptInput } from './engine.ts';
import { ChatRenderer } from './llamacpp/chat.ts';

export interface ChatTexts {
  /** Rejects with `unsupported_parameter` where the model has no template, or with what the template says. */
  render(folder: string, input: Extract<PromptInput, { type: 'chat' }>): Promise<string>;
}

/** Templates are read once for each folder. */
export function createChatTexts(): ChatTexts {
  const renderers = new Map<string, Promise<ChatRenderer | null>>();
  const load = async (folder: string): Promise<ChatRenderer | null> => {
    const template = await readTemplate(folder);
    return template.chatTemplate === null ? null : ChatRenderer.load({ ...template, addsBos: false });
  };
  return {
    async render(folder, input) {
      let loading = renderers.get(folder);
      if (loading === undefined) {
        loading = load(folder);
        renderers.set(folder, loading);
        loading.catch(() => renderers.delete(folder));
      }
      const renderer = await loading;
      if (renderer !== null) return renderer.render(input).text;
      throw new BerthError('unsupported_parameter', 'The model has no chat template: use /v1/completions.', {
        param: 'messages',
      });
    },
  };
}
