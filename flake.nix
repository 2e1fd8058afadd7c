{
  description = "Population Descent for Keras: development shell, and the commands that CI runs";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";

  # nix develop        a shell in which `make demo`, `make test` and the others work
  # nix run .#test     `make test` in the checkout; `nix run` is `make demo`
  # nix flake check    `make test` in Nix's sandbox, without a network (x86_64-linux)
  #
  # Nix provides Python, make and the C++ runtime; the Makefile installs the Python packages into .venv,
  # exactly those of requirements.lock, each checked against its hash (LOCKED=1).
  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "aarch64-darwin"
      ];
      forEachSystem = make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});

      tools = pkgs: [
        pkgs.gnumake
        pkgs.patchelf
        pkgs.python312
      ];

      # Names that the Makefile, pip and the dynamic loader read.
      variables =
        pkgs:
        {
          LOCKED = "1";
          PYTHON = "${pkgs.python312}/bin/python3";
        }
        // lib.optionalAttrs pkgs.stdenv.isLinux {
          # Wheels expect the C++ runtime and zlib in the system's place, which NixOS does not have.
          LD_LIBRARY_PATH = lib.makeLibraryPath [
            pkgs.stdenv.cc.cc.lib
            pkgs.zlib
          ];
        };

      # ruff is the one program among the wheels, so the one that names a loader which NixOS does not have.
      prepare =
        pkgs:
        ''
          make install
        ''
        + lib.optionalString pkgs.stdenv.isLinux ''
          patchelf --set-interpreter "$(cat ${pkgs.stdenv.cc}/nix-support/dynamic-linker)" .venv/bin/ruff
        '';

      # The wheels of requirements.lock in one folder. Nix gives a derivation the network if it says
      # beforehand what will come out: after `make lock`, put the hash that the failing build prints here.
      # The platforms are named, so that the choice does not depend on the machine that downloads.
      wheels =
        pkgs:
        pkgs.runCommand "keras-popdescent-wheels"
          {
            nativeBuildInputs = [
              (pkgs.python312.withPackages (packages: [ packages.pip ]))
            ];
            impureEnvVars = lib.fetchers.proxyImpureEnvVars;
            SSL_CERT_FILE = "${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt";
            outputHashMode = "recursive";
            outputHash = "sha256-X+860YdHVyKv7u2mto/aarGba7ALlNAdDyMzmO2/mMo=";
          }
          ''
            python -m pip download --no-cache-dir --no-deps --require-hashes --only-binary :all: \
              --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
              --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
              --platform manylinux_2_12_x86_64 --platform manylinux2010_x86_64 \
              --platform manylinux_2_5_x86_64 --platform manylinux1_x86_64 \
              --requirement ${./requirements.lock} --dest $out
          '';
    in
    {
      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = tools pkgs;
          env = variables pkgs;
          shellHook = prepare pkgs;
        };
      });

      apps = forEachSystem (
        pkgs:
        let
          run = command: {
            type = "app";
            program = lib.getExe (
              pkgs.writeShellApplication {
                name = "keras-popdescent-${command}";
                runtimeInputs = tools pkgs;
                runtimeEnv = variables pkgs;
                text = prepare pkgs + ''
                  make ${command}
                '';
              }
            );
          };
        in
        {
          default = run "demo";
          demo = run "demo";
          test = run "test";
        }
      );

      checks.x86_64-linux.test =
        let
          pkgs = nixpkgs.legacyPackages.x86_64-linux;
        in
        pkgs.runCommand "keras-popdescent-test"
          (
            variables pkgs
            // {
              nativeBuildInputs = tools pkgs;
              PIP_NO_INDEX = "1";
              PIP_FIND_LINKS = wheels pkgs;
            }
          )
          ''
            cp --recursive ${self} checkout
            chmod --recursive u+w checkout
            cd checkout
            export HOME=$TMPDIR
            ${prepare pkgs}
            make test
            touch $out
          '';
    };
}
