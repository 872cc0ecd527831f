import path from 'node:path';
import type { Words } from './verb.ts';

/** Options whose values say what was to be done, and are nobody's secret. Of all others only that they were given. */
const SHOWN = new Set([
  ...['target', 'namespace', 'context', 'kubeconfig', 'output', 'port', 'container', 'transport', 'agent-image'],
  ...['proxy-port', 'hold', 'capture', 'route', 'no-route', 'dns-include', 'dns-exclude', 'dns', 'dns-port', 'bind'],
  ...[
    'profile',
    'restore-after',
    'volumes',
    'volume-limit',
    'readiness',
    'env-include',
    'env-exclude',
    'env-file',
    'like',
  ],
  ...['fake-ip-range', 'file'],
]);

/**
 * The command line as the log has it, from what yargs read. Of the command to launch it has the program's name alone: its arguments are
 * the person's own, and may be anything.
 */
export function loggedCommandLine(verb: string, words: Words, command: string[] | undefined): string {
  const options = Object.entries(words).flatMap(([name, value]) => {
    // yargs has each option under its aliases too: short ones, and in camel case.
    if (/^(.|\$0)$/.test(name) || /[A-Z]/.test(name) || value === undefined || value === false) return [];
    if (value === true) return [`--${name}`];
    return [value].flat().map((each) => `--${name}=${SHOWN.has(name) ? each : '***'}`);
  });
  const [program, ...args] = command ?? [];
  const launched = program === undefined ? [] : ['--', path.basename(program), `(${args.length} arguments)`];
  return ['lpk', verb, ...options, ...launched].join(' ');
}
