/** Set for a process of lpk's that was started into the background (`proxy-detach.ts`). */
const VARIABLE = 'LPK_DETACHED';

export const DETACHED = { [VARIABLE]: '1' };

export function isDetached(env: NodeJS.ProcessEnv = process.env): boolean {
  return env[VARIABLE] === '1';
}
