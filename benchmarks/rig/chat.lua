-- wrk's requests: one body from a file (same every time), or with a counter in it (unique prompts).
-- Environment: BENCH_BODY (file), BENCH_KEY, BENCH_UNIQUE (first counter value, empty: same prompt).
-- The counter is twelve digits in the place of "@@@@@@@@@@@@", so every request has the same length.
local file = assert(io.open(os.getenv("BENCH_BODY"), "rb"))
local body = file:read("*a")
file:close()

local headers = {
  ["Authorization"] = "Bearer " .. os.getenv("BENCH_KEY"),
  ["Content-Type"] = "application/json",
}
local first = tonumber(os.getenv("BENCH_UNIQUE") or "")
local prefix, suffix, fixed
local counter = first or 0

function init(args)
  local whole = wrk.format("POST", "/v1/chat/completions", headers, body)
  if first == nil then
    fixed = whole
    return
  end
  local from, to = whole:find("@@@@@@@@@@@@", 1, true)
  prefix, suffix = whole:sub(1, from - 1), whole:sub(to + 1)
end

function request()
  if fixed then
    return fixed
  end
  counter = counter + 1
  return prefix .. string.format("%012d", counter) .. suffix
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"wall_us":%d,"p50_us":%.1f,"p99_us":%.1f,"max_us":%.1f,'
      .. '"status_errors":%d,"socket_errors":%d,"timeouts":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    e.status, e.connect + e.read + e.write, e.timeout))
end
