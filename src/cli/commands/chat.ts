/** `berth chat MODEL`: a conversation on a terminal, with its history. */
import { createInterface } from 'node:readline';
import { asBerthError, BerthError } from '../../errors.ts';
import { publicClient } from '../client.ts';
import { generate } from '../generate.ts';
import type { Message } from '../generate.ts';
import type { Io } from '../io.ts';
import { readField, samplingFields, SETTABLE } from '../sampling.ts';
import type { SamplingFields, SamplingOptions } from '../sampling.ts';
import { hasChatTemplate, statistics, terminalListener } from './run.ts';

const HELP = `/set NAME VALUE   set ${SETTABLE.join(', ')}, or system
/clear            forget the conversation
/show             print the settings
/bye              end (also Ctrl-D)
"""               begin and end a message of several lines
Ctrl-C            stop the answer
`;

interface Conversation {
  messages: Message[];
  system: string | null;
  fields: SamplingFields;
}

/** Messages of a conversation that are kept: a bound far beyond any context. */
const MOST_MESSAGES = 1_000;

export async function chat(io: Io, model: string, options: SamplingOptions): Promise<void> {
  if (options.json === true) throw new BerthError('invalid_request', '--json: a chat has no JSON; use `berth run`');
  if (options.raw !== true && !(await hasChatTemplate(io, model, options))) {
    throw new BerthError(
      'unsupported_parameter',
      `${model} has no chat template: it continues text, with \`berth run ${model} TEXT\``,
    );
  }
  const client = publicClient(options, io.env);
  const talk: Conversation = { messages: [], system: options.system ?? null, fields: samplingFields(options) };
  if (io.stdinIsTty) io.err(`Chat with ${model}. /help lists what you can type.\n`);
  const lines = createInterface({
    input: io.stdin,
    ...(io.stdinIsTty ? { output: process.stdout, prompt: '>>> ' } : {}),
  });
  let answering: AbortController | null = null;
  const interrupt = (): void => {
    if (answering === null) lines.close();
    else answering.abort();
  };
  // readline holds the terminal in raw mode and hears Ctrl-C itself; a signal sent by hand comes the other way.
  lines.on('SIGINT', interrupt);
  const offSignal = io.onSignal(interrupt);
  const answer = async (message: string): Promise<void> => {
    talk.messages.push({ role: 'user', content: message });
    const system: Message[] = talk.system === null ? [] : [{ role: 'system', content: talk.system }];
    answering = new AbortController();
    let said = '';
    const listener = terminalListener(io);
    const text = (piece: string): void => {
      said += piece;
      listener.text(piece);
    };
    try {
      const input = options.raw === true ? message : [...system, ...talk.messages];
      const ended = await generate(
        client,
        { model, input, fields: talk.fields },
        { ...listener, text },
        answering.signal,
      );
      io.out('\n');
      if (options.verbose === true) io.err(`${statistics(ended)}\n`);
    } catch (thrown) {
      const error = asBerthError(thrown);
      if (said !== '') io.out('\n');
      if (error.code !== 'request_cancelled') io.err(`error: ${error.message}\n${error.kind.advice}\n`);
      // Without an answer the question isn't part of the conversation; half an answer is what the user has read.
      if (said === '') talk.messages.pop();
    } finally {
      answering = null;
    }
    if (said !== '') talk.messages.push({ role: 'assistant', content: said });
    talk.messages = talk.messages.slice(-MOST_MESSAGES);
  };
  try {
    let several: string[] | null = null;
    if (io.stdinIsTty) lines.prompt();
    for await (const line of lines) {
      if (line.trim() === '"""' && several === null) several = [];
      else if (several !== null && line.trim() !== '"""') several.push(line);
      else {
        const message = several?.join('\n') ?? line.trim();
        const isCommand = several === null && message.startsWith('/');
        several = null;
        if (isCommand) {
          if (message === '/bye' || message === '/exit') break;
          io.err(command(message, talk));
        } else if (message !== '') await answer(message);
      }
      if (io.stdinIsTty) lines.prompt();
    }
  } finally {
    offSignal();
    lines.close();
  }
}

/** Carries out what begins with a slash; returns what to print. */
export function command(line: string, talk: Conversation): string {
  const [, verb = '', name = '', value = ''] = /^\/(\S*)\s*(\S*)\s*(.*)$/s.exec(line) ?? [];
  switch (verb) {
    case 'clear':
      talk.messages = [];
      return 'The conversation is forgotten.\n';
    case 'show':
      return `${JSON.stringify({ system: talk.system, ...talk.fields, messages: talk.messages.length })}\n`;
    case 'set':
      if (name === 'system') {
        talk.system = value === '' ? null : value;
        return '';
      }
      try {
        Object.assign(talk.fields, readField(name, value));
        return '';
      } catch (error) {
        return `error: ${asBerthError(error).message}\n`;
      }
    case 'help':
    case '?':
      return HELP;
    default:
      return `error: /${verb} is unknown\n${HELP}`;
  }
}
