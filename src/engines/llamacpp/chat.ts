/** From chat messages to the prompt that the model was trained on, with its own template from the GGUF. */
import { BerthError } from '../../errors.ts';
import type { ChatMessage, GenerateRequest, ToolSpec } from '../engine.ts';
import type { TemplateFacts } from './commands.ts';
import { toolInstructions } from './tools.ts';

type ChatInput = Extract<GenerateRequest['input'], { type: 'chat' }>;

export interface RenderedPrompt {
  readonly text: string;
  /** Begin as the model was trained to: false where the template wrote the BOS token itself. */
  readonly addSpecial: boolean;
  /** Stop strings that the form needs. */
  readonly stop: readonly string[];
}

interface CompiledTemplate {
  render(items: Record<string, unknown>): string;
}

const ROLE_NAMES = { system: 'System', user: 'User', assistant: 'Assistant', tool: 'Tool' } as const;

/**
 * For a model without a template (a base model): one `Role: content` paragraph a message, and an open `Assistant:`. A base
 * model goes on to write the user's next turn too, so that turn's beginning is a stop string.
 */
function plainPrompt(messages: readonly ChatMessage[]): RenderedPrompt {
  const turns = messages.map((message) => `${ROLE_NAMES[message.role]}: ${message.content.trim()}`);
  return {
    text: [...turns, 'Assistant:'].join('\n\n'),
    addSpecial: true,
    stop: ['\nUser:', '\nSystem:', '\nTool:'],
  };
}

/** A message in the shape that templates expect (that of `transformers`). */
function templateMessage(message: ChatMessage): Record<string, unknown> {
  return {
    role: message.role,
    content: message.content,
    ...(message.name === undefined ? {} : { name: message.name }),
    ...(message.toolCallId === undefined ? {} : { tool_call_id: message.toolCallId }),
    ...(message.toolCalls === undefined || message.toolCalls.length === 0
      ? {}
      : {
          tool_calls: message.toolCalls.map((call) => ({
            id: call.id,
            type: 'function',
            function: { name: call.name, arguments: argumentsObject(call.arguments) },
          })),
        }),
  };
}

function argumentsObject(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

const templateTool = (tool: ToolSpec): Record<string, unknown> => ({
  type: 'function',
  function: {
    name: tool.name,
    description: tool.description ?? '',
    parameters: tool.parameters ?? { type: 'object', properties: {} },
  },
});

/** The messages with `text` at the end of the system message, or as one. */
function withSystemText(messages: readonly ChatMessage[], text: string): ChatMessage[] {
  const [first, ...rest] = messages;
  if (first?.role === 'system') return [{ ...first, content: `${first.content}\n\n${text}` }, ...rest];
  return [{ role: 'system', content: text }, ...messages];
}

/** For templates that know no tools: calls and results in the form that `toolInstructions` asks for. */
function withoutToolRoles(messages: readonly ChatMessage[]): ChatMessage[] {
  return messages.map((message) => {
    if (message.role === 'tool')
      return { role: 'user', content: `<tool_response>\n${message.content}\n</tool_response>` };
    if (message.toolCalls === undefined || message.toolCalls.length === 0) return message;
    const calls = message.toolCalls.map(
      (call) => `<tool_call>\n{"name": ${JSON.stringify(call.name)}, "arguments": ${call.arguments}}\n</tool_call>`,
    );
    return { role: message.role, content: [message.content, ...calls].filter((part) => part !== '').join('\n') };
  });
}

/** The template compiled, and rendered for each request. */
export class ChatRenderer {
  readonly #facts: TemplateFacts;
  readonly #template: CompiledTemplate | null;
  readonly #knowsTools: boolean;

  private constructor(facts: TemplateFacts, template: CompiledTemplate | null) {
    this.#facts = facts;
    this.#template = template;
    this.#knowsTools = facts.chatTemplate !== null && /\btools\b/.test(facts.chatTemplate);
  }

  /** Loads the template engine before a model comes. Where that fails, `load` fails again, and tells. */
  static async prepare(): Promise<void> {
    await import('@huggingface/jinja').catch(() => {});
  }

  static async load(facts: TemplateFacts): Promise<ChatRenderer> {
    if (facts.chatTemplate === null) return new ChatRenderer(facts, null);
    const { Template } = await import('@huggingface/jinja');
    try {
      return new ChatRenderer(facts, new Template(facts.chatTemplate));
    } catch {
      // A template that can't be parsed is as good as none; requests still get an answer.
      process.stderr.write('berth: the model’s chat template can’t be parsed; the plain form is used.\n');
      return new ChatRenderer({ ...facts, chatTemplate: null }, null);
    }
  }

  /** Throws `invalid_request` if the template refuses the messages (roles that must alternate, say). */
  render(input: ChatInput): RenderedPrompt {
    const { toolChoice } = input;
    const tools = toolChoice === 'none' ? [] : input.tools;
    let messages: readonly ChatMessage[] = input.messages;
    if (!this.#knowsTools) {
      messages = withoutToolRoles(messages);
      if (tools.length > 0) messages = withSystemText(messages, toolInstructions(tools));
    }
    if (this.#template === null) return plainPrompt(messages);
    const text = this.#renderTemplate(messages, this.#knowsTools ? tools : []);
    const { bosText, addsBos } = this.#facts;
    const writesBos = bosText !== '' && text.startsWith(bosText);
    return { text, addSpecial: addsBos && !writesBos, stop: [] };
  }

  #renderTemplate(messages: readonly ChatMessage[], tools: readonly ToolSpec[]): string {
    try {
      return (this.#template as CompiledTemplate).render({
        messages: messages.map(templateMessage),
        ...(tools.length === 0 ? {} : { tools: tools.map(templateTool) }),
        add_generation_prompt: true,
        bos_token: this.#facts.bosText,
        eos_token: this.#facts.eosText,
      });
    } catch (error) {
      throw new BerthError(
        'invalid_request',
        'The model’s chat template refuses these messages: check the order of their roles.',
        { param: 'messages', cause: error },
      );
    }
  }
}
