import { describeOnGpu } from '../../test/gpu/stories.ts';
import { gpuBytesOf } from '../config/nvidia.ts';
import { membersOf } from './memory.ts';
import { createTrtllmEngine } from './trtllm.ts';

describeOnGpu('trtllm', 'BERTH_TRTLLM', () =>
  createTrtllmEngine({ deviceBytes: (group) => gpuBytesOf(membersOf(group)) }),
);
