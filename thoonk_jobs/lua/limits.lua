-- Limits on running jobs: who may become available, and who is let go when a slot is free.

local LIMITS = {}

local function limit(field)
  if LIMITS[field] == nil then LIMITS[field] = tonumber(redis.call('HGET', K.limits, field) or nil) or false end
  return LIMITS[field]
end

-- The free slots of a key, '' being the whole queue.
local function room(key)
  local allowed = key == '' and limit('q') or key ~= '' and (limit('k' .. key) or limit('e'))
  return allowed and math.max(0, allowed - slots(key)) or math.huge
end

-- What a job would wait for: 2 a slot of its key, 1 one of the queue, nil nothing.
local function blocked(job)
  if job[KEY] ~= '' and room(job[KEY]) < 1 then return 2 end
  if room('') < 1 then return 1 end
end

-- Makes a job available by this row, or holds it where a limit is full.
local function admit(id, row, reason)
  local job, edge = JOBS[id], EDGES[row]
  local held = blocked(job)
  touch(id)
  job[HELD] = held or 0
  if not held then return move(id, row, reason) end
  move(id, 'hold', row)
  if not edge.silent then job[VIA] = edge.code end
end

local function let_go(id)
  local job = JOBS[id]
  if not job or job[STATE] ~= WAITING then return end
  local held = blocked(job)
  touch(id)
  job[HELD] = held or 0
  if not held then move(id, 'release') end
end

-- The first n ids that wait: for a slot of the key, or, '' given, of the queue.
local function in_line(key, n)
  local ids = {}
  if n < 1 then return ids end
  if key == '' then
    for _, member in ipairs(redis.call('ZRANGE', K.waiting, 0, n - 1)) do ids[#ids + 1] = string.sub(member, 9) end
    return ids
  end
  local prefix = frame(key) .. 'w'
  local found = redis.call('ZRANGEBYLEX', K.keyed, '[' .. prefix, '(' .. prefix .. '\255\255', 'LIMIT', 0, n)
  for _, member in ipairs(found) do ids[#ids + 1] = string.sub(member, #prefix + 17) end
  return ids
end

-- Lets go as many as fit of those that wait for what became free; true where more may fit than one call may move.
local function release(keys)
  commit()
  if redis.call('ZCARD', K.waiting) + redis.call('ZCARD', K.parked) == 0 then return false end
  local left = 500
  for _, key in ipairs(keys) do
    local n = math.min(left, room(key))
    local ids = in_line(key, n)
    load(ids)
    for _, id in ipairs(ids) do let_go(id) end
    commit()
    left = left - #ids
  end
  return left == 0
end

-- The keys whose slots this script gave back, the queue itself last.
local function release_freed()
  local keys = {}
  for key in pairs(FREED) do if key ~= '' then keys[#keys + 1] = key end end
  if FREED[''] then keys[#keys + 1] = '' end
  FREED = {}
  if #keys > 0 then return release(keys) end
  commit()
end
