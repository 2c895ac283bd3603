/** The engine's shapes as the gateway meets them: through `Submission`, so that the gateway depends on the node only. */
import type { StreamEvent, Submission } from '../../runtime/api.ts';

export type GenerateRequest = Extract<Submission['request'], { kind: 'generate' }>;

export type PromptInput = GenerateRequest['input'];
type ChatInput = Extract<PromptInput, { type: 'chat' }>;
export type ChatMessage = ChatInput['messages'][number];
export type ToolSpec = ChatInput['tools'][number];
export type ToolChoice = ChatInput['toolChoice'];
export type Sampling = GenerateRequest['sampling'];
export type OutputFormat = GenerateRequest['format'];

export type TokensEvent = Extract<StreamEvent, { type: 'tokens' }>;
export type ToolCallEvent = Extract<StreamEvent, { type: 'toolCall' }>;
export type FinishedEvent = Extract<StreamEvent, { type: 'finished' }>;
export type EmbeddedEvent = Extract<StreamEvent, { type: 'embedded' }>;
export type FailedEvent = Extract<StreamEvent, { type: 'failed' }>;
export type TokenLogprob = NonNullable<TokensEvent['logprobs']>[number];
export type RequestUsage = FinishedEvent['usage'];
