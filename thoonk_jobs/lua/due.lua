-- What time alone moves: deadlines, leases, due dates.

local function each_due(index, at, row, act)
  local ids = due(index, at)
  load(ids)
  for _, id in ipairs(ids) do
    local job = JOBS[id]
    if job and EDGES[row].from[job[STATE]] then act(id, job) end
  end
  return #ids == AT_ONCE
end

local function lapse(id)
  dispossess(id)
  move(id, 'lapse', 'not done in time')
end

local function lose(id, job)
  dispossess(id)
  bump(job, LOST)
  local most = setting('max_lost', 3)
  if job[LOST] >= most then
    move(id, 'exhaust', 'lost ' .. job[LOST] .. ' claims: its workers died, or their leases ran out')
  else
    move(id, 'expire', 'lease')
  end
end

local function promote(id, job)
  touch(id)
  job[ORDER], job[UNTIL] = draw_order(job[PRIORITY] == math.huge), 0
  admit(id, 'promote')
end

-- Settles what is due, bounded; true if there may be more. Deadlines first: a job past its own is not handed out.
local function settle()
  local more = each_due(K.expiring, NOW, 'lapse', lapse)
  more = each_due(K.claimed, NOW, 'expire', lose) or more
  more = each_due(K.scheduled, NOW, 'promote', promote) or more
  more = each_due(K.dated, WALL, 'promote', promote) or more
  more = forget_finished(NOW) or more
  trim_stalled()
  return release_freed() or more
end

-- Milliseconds until something is due, -1 for never.
local function next_due()
  local soonest = math.huge
  for index, now in pairs({[K.expiring] = NOW, [K.claimed] = NOW, [K.scheduled] = NOW, [K.dated] = WALL}) do
    local first = redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')
    if first[2] then soonest = math.min(soonest, math.max(0, first[2] - now)) end
  end
  return soonest == math.huge and -1 or math.ceil(soonest)
end
