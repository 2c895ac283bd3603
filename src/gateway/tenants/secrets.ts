/** Secrets of keys: made, hashed, shown once. */
import { hash, randomBytes } from 'node:crypto';

/** 256 random bits can't be guessed, so one round of SHA-256 hides them as well as a slow hash would. */
const SECRET_BYTES = 32;
const PREFIX_LETTERS = 8;

export const newSecret = (): string => `bt-${randomBytes(SECRET_BYTES).toString('base64url')}`;
export const newKeyId = (): string => `key_${randomBytes(8).toString('hex')}`;
export const prefixOf = (secret: string): string => secret.slice(0, PREFIX_LETTERS);

/** SHA-256 as hex: what keys are found by. */
export const hashOf = (secret: string): string => hash('sha256', secret, 'hex');
